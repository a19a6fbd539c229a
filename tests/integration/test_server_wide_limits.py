"""Limits that apply to all workers together, and timeouts set by flags, with the real server and its logs."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for

APP = """
import os
import gevent
from gevent.monkey import get_original
from gserver import Lines, Service

def answer(line, conn):
    if line == b"block":
        get_original("time", "sleep")(1.0)
    elif line == b"wait":
        conn.send(b"waiting")
        gevent.sleep(3600)
    return b"%d %s" % (os.getpid(), line)

def tell(fault, conn):
    return b"refused: " + str(fault).encode()

app = Service(answer, Lines, on_error=tell, probe=b"probe")
"""


class Guest:
    """A client with a source address in 127.0.0.0/8; close() closes its socket."""

    def __init__(self, address: tuple[str, int], host: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(address, PATIENCE_S, (host, 0))

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hear(self) -> str:
        """Return the next line, "" at the end of the connection; raise TimeoutError if nothing comes."""
        line = b""
        while not line.endswith(b"\n"):
            more = self.sock.recv(1000)
            if not more:
                break
            line += more
        return line.decode().strip()

    def ask(self) -> str:
        """Send a line and return the reply: "PID x", the reason of a refusal, or ""."""
        try:
            self.say(b"x\n")
            return self.hear()
        except ConnectionError:
            return ""

    @property
    def is_served(self) -> bool:
        return self.ask().endswith(" x")

    def close(self) -> None:
        self.sock.close()


Enter = Callable[..., Guest]


@contextmanager
def running(folder: Path, *arguments: str, workers: int = 3) -> Iterator[tuple[GserverProcess, Enter]]:
    """Run a server; yields it and a function that connects a client, which is closed before the server stops."""
    (folder / "app.py").write_text(APP)
    with GserverProcess(folder, "app:app", *arguments, workers=workers) as server, ExitStack() as guests:

        def enter(host: str = "127.0.0.1") -> Guest:
            guest = Guest(server.address, host)
            guests.callback(guest.close)
            return guest

        server.wait_for_log("Worker ready", workers)  # a worker that was just forked still has the arbiter's listeners
        wait_for(lambda: len(serving_pids(server)) == workers, "every worker accepts")
        yield server, enter


def serving_pids(server: GserverProcess) -> set[int]:
    """Return the workers that have a listener, which they receive only after they are ready."""
    port = f":{server.address[1]:04X}"
    inodes = {
        row.split()[9] for row in Path("/proc/net/tcp").read_text().splitlines()[1:] if row.split()[1].endswith(port)
    }
    return {worker.pid for worker in server.workers() if inodes & sockets_of(worker.pid)}


def sockets_of(pid: int) -> set[str]:
    links = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {name.removeprefix("socket:[").removesuffix("]") for name in links if name.startswith("socket:[")}


def enter_when_one_has_left(enter: Enter, host: str = "127.0.0.1") -> Guest:
    """Connect until a client is served: the server needs a moment to notice a close."""
    came: list[Guest] = []

    def comes() -> bool:
        guest = enter(host)
        came.append(guest)
        return guest.is_served

    wait_for(comes, "a connection has become free")
    return came[-1]


# Number of connections


@pytest.mark.parametrize("reuse_port", [False, True])
def test_max_connections_applies_to_all_workers_together(tmp_path: Path, reuse_port: bool) -> None:
    arguments = ["--max-connections", "30", *["--reuse-port"] * reuse_port]
    with running(tmp_path, *arguments) as (_, enter):
        guests, said = [], []
        for _ in range(50):  # one after the other, so that each worker gets some
            guests.append(enter())
            said.append(guests[-1].ask())
        inside = [guest for guest, words in zip(guests, said, strict=True) if words.endswith(" x")]

        assert len(inside) == 30
        assert len({words for words in said if words.endswith(" x")}) == 3  # each worker serves some
        outside = Counter(words for words in said if not words.endswith(" x"))
        assert outside == {"refused: the server is full: it holds 30 connections": 20}

        inside.pop().close()
        inside.append(enter_when_one_has_left(enter))
        assert not enter().is_served
        assert all(guest.is_served for guest in inside)


def test_with_full_action_close_refused_clients_receive_eof(tmp_path: Path) -> None:
    with running(tmp_path, "--max-connections", "5", "--full-action", "close") as (_, enter):
        said = [guest.ask() for guest in [enter() for _ in range(25)]]

        assert sorted(words.endswith(" x") for words in said) == [False] * 20 + [True] * 5
        assert [words for words in said if not words.endswith(" x")] == [""] * 20


def test_a_full_worker_leaves_connections_to_another(tmp_path: Path) -> None:
    with running(tmp_path, "--worker-connections", "4", workers=2) as (_, enter):
        guests = [enter() for _ in range(8)]
        pids = Counter(guest.ask() for guest in guests)

        assert sorted(pids.values()) == [4, 4]
        assert enter().ask() == "refused: the server is full: it holds 4 connections"


def test_an_idle_connection_is_evicted_and_never_a_busy_one(tmp_path: Path) -> None:
    arguments = ["--max-connections", "4", "--full-action", "shed", "--graceful-timeout", "0.2"]
    with running(tmp_path, *arguments, workers=2) as (_, enter):
        guests = [enter() for _ in range(4)]
        assert all(guest.is_served for guest in guests)
        # A worker without connections has none to evict: it leaves a new connection to the other worker for a while,
        # and then refuses it.
        newcomer = next(guest for guest in (enter() for _ in range(200)) if guest.is_served)
        gone = [guest for guest in guests if not guest.is_served]
        assert len(gone) == 1

        inside = [guest for guest in (*guests, newcomer) if guest not in gone]
        for guest in inside:
            guest.say(b"wait\n")
            assert guest.hear() == "waiting"
        assert enter().ask() == "refused: the server is full: it holds 4 connections"


# By address


def test_the_limit_of_an_address_applies_to_all_workers_even_after_a_kill(tmp_path: Path) -> None:
    with running(tmp_path, "--max-connections-per-ip", "6") as (server, enter):
        inside = {guest: int(guest.ask().split()[0]) for guest in [enter() for _ in range(6)]}
        assert len(set(inside.values())) > 1
        too_many = "refused: more than 6 connections from one address"
        assert [enter().ask() for _ in range(6)] == [too_many] * 6
        assert all(enter("127.0.0.2").is_served for _ in range(6))
        assert not enter("127.0.0.2").is_served

        victim = next(iter(inside.values()))
        server.kill_worker(victim)
        lost = [guest for guest, pid in inside.items() if pid == victim]
        assert all(enter().is_served for _ in lost)
        assert enter().ask() == too_many
        assert all(guest.is_served for guest in inside if guest not in lost)


def test_the_limit_of_a_network_applies_to_all_workers(tmp_path: Path) -> None:
    with running(tmp_path, "--max-connections-per-network", "4", "--ipv4-network-bits", "30") as (_, enter):
        hosts = ["127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7"]

        assert all(enter(host).is_served for host in hosts)
        assert [enter(host).ask() for host in hosts] == ["refused: more than 4 connections from one network"] * 4
        assert enter("127.0.0.8").is_served


def test_allow_and_deny_lists_are_applied(tmp_path: Path) -> None:
    allowed = ["--allow", "127.0.0.0/29", "--allow", "127.0.1.1", "--deny", "127.0.0.2"]
    with running(tmp_path, *allowed, "--access-logfile", "access", workers=2) as (_, enter):
        answers = {host: enter(host).ask() for host in ("127.0.0.1", "127.0.0.2", "127.0.0.9", "127.0.1.1")}

        assert [host for host, words in answers.items() if words.endswith(" x")] == ["127.0.0.1", "127.0.1.1"]
        assert [words for words in answers.values() if not words.endswith(" x")] == ["", ""]
        wait_for(lambda: (tmp_path / "access").read_text().count('"denied"') == 2, "both stand in the access log")


# Rate of accepts


def serving(server: GserverProcess) -> int:
    """Return the number of workers that accept connections."""
    before_6 = not hasattr(psutil.Process, "net_connections")
    found = [each.connections() if before_6 else each.net_connections() for each in server.workers()]
    return sum(any(each.status == "LISTEN" for each in connections) for connections in found)


def test_the_accept_rate_applies_to_all_workers_together(tmp_path: Path) -> None:
    with running(tmp_path, "--max-accept-rate", "10", workers=2) as (server, enter):
        wait_for(lambda: serving(server) == 2, "both have the listener, and share the rate")
        began = time.monotonic()
        said = [guest.ask() for guest in [enter() for _ in range(60)]]
        most = 10 * (1 + time.monotonic() - began) + 1
        count = sum(words.endswith(" x") for words in said)

        assert 5 <= count <= most  # at least one worker's share, at most all
        refused = {words for words in said if not words.endswith(" x")}
        assert refused == {"refused: more than 10 connections a second"}


def test_a_rate_below_one_for_each_worker_still_accepts_some(tmp_path: Path) -> None:
    with running(tmp_path, "--max-accept-rate", "1") as (_, enter):
        assert any(guest.is_served for guest in [enter() for _ in range(3)])
        enter_when_one_has_left(enter)


def test_the_accept_rate_applies_to_all_listeners_together(tmp_path: Path) -> None:
    with running(tmp_path, "--max-accept-rate", "10", "-b", "127.0.0.2:0", workers=1) as (server, _):
        addresses = re.findall(r"(127\.0\.0\.[12]):(\d+)", server.log)
        assert len(addresses) == 2
        began = time.monotonic()
        guests = [Guest((host, int(port))) for host, port in addresses * 20]
        served = sum(guest.is_served for guest in guests)

        assert 10 <= served <= 10 * (1 + time.monotonic() - began) + 1
        for guest in guests:
            guest.close()


# Settings


def test_a_reload_changes_a_limit(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text("max_connections = 2")
    with running(tmp_path, "-c", str(config), "--reload-settle", "0.1", workers=2) as (server, enter):
        before = [enter() for _ in range(2)]
        assert all(guest.is_served for guest in before)
        assert enter().ask() == "refused: the server is full: it holds 2 connections"
        config.write_text("max_connections = 4\ndeny = ['127.0.0.3']")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        server.wait_for_log("Settings changed: ", 2)

        after = [enter() for _ in range(2)]
        assert all(guest.is_served for guest in [*before, *after])
        assert enter().ask() == "refused: the server is full: it holds 4 connections"
        assert enter("127.0.0.3").ask() == ""
        assert all(guest.is_served for guest in [*before, *after])


def test_each_timeout_has_its_flag_and_its_close_reason_in_the_access_log(tmp_path: Path) -> None:
    flags = {"--first-byte-timeout": "0.3", "--idle-timeout": "0.4", "--message-timeout": "0.3"}
    flags |= {"--handler-timeout": "0.3", "--access-logfile": "access", "--access-logformat": "%(h)s %(r)s"}
    arguments = [word for pair in flags.items() for word in pair]
    with running(tmp_path, *arguments, workers=2) as (_, enter):
        silent, idle, half, slow = (enter() for _ in range(4))
        names = {f"127.0.0.1:{guest.sock.getsockname()[1]}": guest for guest in (silent, idle, half, slow)}
        assert idle.is_served
        half.say(b"hal")
        slow.say(b"wait\n")
        assert slow.hear() == "waiting"

        assert (silent.hear(), idle.hear()) == ("", "")
        assert half.hear() == "refused: message not complete after 0.3 s"
        assert slow.hear() == "refused: no answer within 0.3 s"
        wait_for(lambda: (tmp_path / "access").read_text().count("\n") == 4, "all four are in the access log")
        lines = (line.split() for line in (tmp_path / "access").read_text().splitlines())
        words = {names[name]: word for name, word in lines}
        expected = ("first_byte_timeout", "idle_timeout", "message_timeout", "handler_timeout")
        assert tuple(words[guest] for guest in (silent, idle, half, slow)) == expected


def test_a_connection_that_reaches_its_maximum_age_is_closed(tmp_path: Path) -> None:
    with running(tmp_path, "--max-connection-age", "0.3", "--access-logfile", "access", workers=1) as (_, enter):
        guest = enter()
        assert guest.is_served

        assert guest.hear() == ""
        wait_for(lambda: '"aged"' in (tmp_path / "access").read_text(), "it stands in the access log")


def test_a_message_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, "--max-message-size", "100", "--access-logfile", "access", workers=1) as (_, enter):
        fits, too_long = enter(), enter()
        fits.say(b"y" * 100 + b"\n")
        too_long.say(b"y" * 101 + b"\n")

        assert fits.hear().endswith("y" * 100)
        assert re.fullmatch("refused: .*100.*", too_long.hear())
        assert too_long.hear() == ""
        wait_for(lambda: '"protocol_error"' in (tmp_path / "access").read_text(), "it stands in the access log")


def test_every_refusal_has_its_close_reason_in_the_access_log(tmp_path: Path) -> None:
    limits = ["--max-connections", "3", "--max-connections-per-ip", "2"]
    access = ["--access-logfile", "access", "--access-logformat", "%(r)s %(M)s"]
    with running(tmp_path, *limits, *access, workers=1) as (_, enter):
        inside = [enter("127.0.0.1"), enter("127.0.0.1"), enter("127.0.0.2")]
        assert all(guest.is_served for guest in inside)
        assert not enter("127.0.0.1").is_served
        assert not enter("127.0.0.3").is_served
        log = tmp_path / "access"

        wait_for(
            lambda: log.read_text() == "address_limit 0\nfull 0\n", "both, and nothing else, are in the access log"
        )


def test_a_handler_that_blocks_the_worker_is_named_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path, "--block-warning", "0.2", workers=1) as (server, enter):
        guest = enter()
        guest.say(b"block\n")
        assert guest.hear().endswith(" block")
        name = f"127.0.0.1:{guest.sock.getsockname()[1]}"

        named = rf"{re.escape(name)} \(\d+-\d+\) in app\.answer"
        server.wait_for_log(rf"The event loop was blocked for \d+\.\d s or more: {named}")
        server.wait_for_log(r'app\.py", line \d+, in answer\n')
        assert 'get_original("time", "sleep")(1.0)' in server.log


def test_a_handler_that_waits_in_gevent_is_not_named(tmp_path: Path) -> None:
    with running(tmp_path, "--block-warning", "0.1", "--handler-timeout", "0.5", workers=1) as (server, enter):
        guest = enter()
        guest.say(b"wait\n")

        assert guest.hear() == "waiting"
        assert guest.hear() == "refused: no answer within 0.5 s"
        assert "in app.answer" not in server.log
