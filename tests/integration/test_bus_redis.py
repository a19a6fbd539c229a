"""gserver.bus over a real Redis: two servers; Redis away at the start, killed in the middle, hung, started again."""

from __future__ import annotations

import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from loadtests.host.subprocesses import free_port
from tests.helpers.chat import Member, chat_server, counts, join_each
from tests.helpers.processes import GserverProcess, run_gserver, wait_for
from tests.helpers.redis_servers import RedisServer, needs_redis

pytestmark = [pytest.mark.long, needs_redis]
CONNECTED = "bus: connected to"
AWAY = "bus: no connection to"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def one_each(server: GserverProcess) -> list[Member]:
    return [members[0] for members in join_each(server, 1, server.serving_pids()).values()]


def close(members: list[Member]) -> None:
    for member in members:
        member.close()


def burst(member: Member, name: bytes, count: int) -> None:
    """Publish lines; wait until all are published."""
    assert member.ask(b"burst %s %d 20" % (name, count)) == b"done"


def numbers(lines: list[bytes], name: bytes) -> list[int]:
    return [int(line.split()[1].rstrip(b".")) for line in lines if line.split()[0] == name]


@pytest.mark.parametrize("more", [(), ("--no-patch",), ("--preload",)], ids=["plain", "unpatched", "preload"])
def test_two_servers_are_one_room_and_all_members_get_the_same_order(
    tmp_path: Path, redis: RedisServer, more: tuple[str, ...]
) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    options = ("--bus", redis.url, *more)
    with chat_server(folders[0], *options) as one, chat_server(folders[1], *options) as other:
        members = [*one_each(one), *one_each(other)]
        for number in range(200):
            for index, member in enumerate(members):
                member.send(b"say %d %d" % (index, number))
        orders = []
        for member in members:
            lines = [member.read() for _ in range(800)]
            for index in range(4):
                assert numbers(lines, b"%d" % index) == list(range(200))
            orders.append(lines)
        assert orders[0] == orders[1] == orders[2] == orders[3]
        for folder in folders:
            assert counts(folder) == {"published": 400, "delivered": 1600, "dropped": 0}
        close(members)


def test_a_line_is_not_published_before_the_subscriptions_that_were_made_before_it(
    tmp_path: Path, redis: RedisServer
) -> None:
    """A new member gets what it publishes itself, though both go over different connections to Redis."""
    (tmp_path / "topics.py").write_text(
        "from gserver import Lines, Service, bus\n"
        "def on_message(line, conn):\n"
        "    bus.subscribe(conn, line.decode())\n"
        "    bus.publish(line.decode(), line)\n"
        "app = Service(on_message, Lines)\n"
    )
    with (
        GserverProcess(tmp_path, "--bus", redis.url, "topics:app") as server,
        Client(server.address, Lines()) as client,
    ):
        for number in range(300):
            assert client.call(b"topic %d" % number) == b"topic %d" % number
        channels = redis.command("pubsub", "channels").split(b"\n")
        assert len([each for each in channels if each.startswith(b"gserver:topic ")]) == 300
        client.close()
        wait_for(lambda: redis.command("pubsub", "channels").strip() == b"", "the topics are given back")


def test_redis_is_killed_in_the_middle_and_exactly_the_lines_meanwhile_are_lost(
    tmp_path: Path, redis: RedisServer
) -> None:
    with chat_server(tmp_path, "--bus", redis.url) as server:
        members = one_each(server)
        publisher, other = members
        burst(publisher, b"before", 300)
        assert [numbers([member.read() for _ in range(300)], b"before") for member in members] == 2 * [list(range(300))]
        redis.kill()
        server.wait_for_log(AWAY, 2)
        began = time.monotonic()
        burst(publisher, b"away", 500)  # a handler that publishes is not delayed
        burst(other, b"away", 500)
        assert time.monotonic() - began < 5
        assert counts(tmp_path)["dropped"] == 1000
        server.wait_for_log(r"bus: \d+ messages dropped: there is no connection to unix://")
        redis.start()
        server.wait_for_log(CONNECTED, 4)
        burst(publisher, b"after", 300)
        burst(other, b"later", 300)
        for member in members:
            lines = [member.read() for _ in range(600)]
            assert numbers(lines, b"after") == numbers(lines, b"later") == list(range(300))
        assert counts(tmp_path) == {"published": 1900, "delivered": 1800, "dropped": 1000}
        assert all(member.is_open for member in members)
        close(members)


def test_a_stream_of_lines_has_one_gap_when_redis_is_killed_and_started_again(
    tmp_path: Path, redis: RedisServer
) -> None:
    with chat_server(tmp_path, "--bus", redis.url) as server:
        members = one_each(server)
        publisher = members[0]
        sent = 0

        def publish_until(fact: str, count: int) -> None:
            nonlocal sent
            until = time.monotonic() + 60
            while server.log.count(fact) < count:
                for _ in range(20):
                    publisher.send(b"say n %d" % sent)
                    sent += 1
                assert time.monotonic() < until
                time.sleep(0.005)

        killing = threading.Timer(0.3, redis.kill)
        killing.start()
        publish_until(AWAY, 2)
        killing.join()
        redis.start()
        publish_until(CONNECTED, 4)
        publisher.ask(b"pid")  # all lines so far are published
        for number in range(sent, sent + 100):
            publisher.send(b"say n %d" % number)
        publisher.send(b"say end")
        for member in members:
            found = numbers(member.read_until(b"end"), b"n")
            assert found == sorted(set(found))
            gaps = [(one, two) for one, two in itertools.pairwise(found) if two != one + 1]
            assert len(gaps) == 1, gaps
            assert (found[0], found[-1]) == (0, sent + 99)
        close(members)


def test_a_server_starts_without_redis_and_connects_when_it_is_there(tmp_path: Path) -> None:
    with RedisServer(tmp_path, start=False) as redis, chat_server(tmp_path, "--bus", redis.url) as server:
        server.wait_for_log(rf"{AWAY} unix://.*redis.sock, trying again: Error 2 connecting to", 2)
        members = one_each(server)
        burst(members[0], b"lost", 10)
        assert counts(tmp_path)["dropped"] == 10
        redis.start()
        server.wait_for_log(CONNECTED, 2)
        members[0].send(b"say hello")
        assert [member.read() for member in members] == [b"hello", b"hello"]
        close(members)


def test_a_redis_that_hangs_delays_no_handler(tmp_path: Path, redis: RedisServer) -> None:
    with chat_server(tmp_path, "--bus", redis.url, "--bus-queue", "64K") as server:
        members = one_each(server)
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            for _ in range(5):
                began = time.monotonic()
                burst(members[0], b"hung", 400)
                assert time.monotonic() - began < 3
            server.wait_for_log(r"messages dropped: unix://.* does not take them fast enough")
            server.wait_for_log(AWAY, 2)  # no reply within 5 s, also to the PING of the worker that publishes nothing
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        server.wait_for_log(CONNECTED, 4)
        members[0].send(b"say hello")
        for member in members:
            lines = member.read_until(b"hello")
            assert numbers(lines, b"hung") == sorted(numbers(lines, b"hung"))
            assert member.is_open
        close(members)


def test_what_others_publish_in_redis_disturbs_nothing(tmp_path: Path, redis: RedisServer) -> None:
    with chat_server(tmp_path, "--bus", redis.url) as server:
        members = one_each(server)
        for junk in (b"junk", b"", bytes(range(256)), b"\x95\x01", b"\x80\x04\x95cos\nsystem\n", b"x" * 100_000):
            redis.command("publish", "gserver:room", junk) if b"\0" not in junk else None
        members[0].send(b"say hello")
        assert [member.read() for member in members] == [b"hello", b"hello"]
        server.wait_for_log("bus: 1 messages not delivered: InvalidBody: ")
        # A program of another kind can publish: version, origin, excluded connection, message, in MessagePack.
        redis.command("publish", "gserver:room", b"\x94\x01\xa0\xc0\xc4\x02hi")
        assert [member.read() for member in members] == [b"hi", b"hi"]
        close(members)


def test_wrong_passwords_are_logged_without_them(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "opensesame") as redis:
        url = f"unix://:{{}}@{redis.socket}"
        with chat_server(tmp_path, "--bus", url.format("guess"), workers=1) as server:
            server.wait_for_log(f"{AWAY} unix://{redis.socket}, trying again: .*(WRONGPASS|[Ii]nvalid|NOAUTH)")
            assert "guess" not in server.log
        with chat_server(tmp_path, "--bus", url.format("opensesame"), workers=1) as server:
            server.wait_for_log(CONNECTED)
            assert "opensesame" not in server.log


@pytest.mark.parametrize("more", [(), ("--no-patch",)], ids=["plain", "unpatched"])
def test_over_tls(tmp_path: Path, certificate: tuple[Path, Path], more: tuple[str, ...]) -> None:
    port, (cert, key) = free_port(), certificate
    tls = ("--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key))
    with RedisServer(tmp_path, *tls, "--tls-auth-clients", "no") as redis:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={cert}"
        with chat_server(tmp_path, "--bus", url, *more) as server:
            server.wait_for_log(CONNECTED, 2)
            members = one_each(server)
            burst(members[0], b"secret", 500)
            for member in members:
                assert numbers([member.read() for _ in range(500)], b"secret") == list(range(500))
            redis.kill()
            server.wait_for_log(AWAY, 2)
            close(members)


def test_without_redis_py_the_server_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError('not installed')\n")
    (tmp_path / "app.py").write_text("from gserver import Lines, Service\napp = Service(lambda m, c: m, Lines)\n")
    ended = run_gserver("-b", "127.0.0.1:0", "--bus", "redis://:secret@127.0.0.1:1/0", "app:app", cwd=tmp_path)

    assert ended.returncode == 3
    assert (
        "setting bus is 'redis://127.0.0.1:1/0', which needs redis-py: pip install 'gserver-tcp[redis]'" in ended.stderr
    )
    assert "secret" not in ended.stderr


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://127.0.0.1", "must be redis://HOST:PORT/0, rediss://HOST:PORT/0, unix://PATH, or None"),
        (
            "redis://u:secret@h:1/0?colour=red",
            "setting bus is 'redis://h:1/0', which redis-py does not accept: .*colour",
        ),
        ("redis://u:secret@h:1/0?protocol=3", "which redis-py does not accept: its option protocol must be 2"),
        ("redis://u:secret@h:many/0", "which redis-py does not accept|must be redis://"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(tmp_path: Path, url: str, named: str) -> None:
    (tmp_path / "app.py").write_text("from gserver import Lines, Service\napp = Service(lambda m, c: m, Lines)\n")
    for command in ((), ("--check-config",)):
        ended = run_gserver(*command, "-b", "127.0.0.1:0", "--bus", url, "app:app", cwd=tmp_path)

        assert ended.returncode != 0
        assert re.search(named, ended.stderr), ended.stderr
        assert "secret" not in ended.stderr


def test_the_configuration_is_shown_without_the_password(tmp_path: Path) -> None:
    shown = run_gserver("--print-config", "--bus", "redis://user:secret@host:6379/0", cwd=tmp_path).stdout

    assert "bus = 'redis://host:6379/0'\n" in shown
