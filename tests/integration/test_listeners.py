"""Several listeners in one server: protocols, settings, certificates, reloads, upgrades, sockets of systemd."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.client import Client
from gserver.codecs import Codec, LengthPrefixed, Lines
from gserver.errors import ConnectionClosed
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.ports import NamedPorts
from tests.helpers.processes import PATIENCE_S, GserverProcess, run_gserver, wait_for
from tests.helpers.swarm import LINE_APP, Swarm

pytestmark = pytest.mark.long

#: Two protocols. Each reply begins with the name of the listener.
SHOP = """
import os
from pathlib import Path
from gserver import LengthPrefixed, Lines, Service

with Path("imports").open("a") as file:
    file.write(f"{os.getpid()}\\n")

def note(what):
    with Path("events").open("a") as file:
        file.write(f"{what} {os.getpid()}\\n")

def answer(message, conn):
    return conn.listener.encode() + b" " + message

def made(codec, name):
    note(f"made {name}")
    return Service(
        answer, codec, probe=b"?", ready=lambda: note(f"ready {name}"), stop=lambda: note(f"stop {name}")
    )

def make_devices():
    return made(Lines, "devices")

admin = made(LengthPrefixed, "admin")

def bare(sock, address):
    sock.sendall(b"bare")
"""
ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
CONF = "conf.py"
GSERVERCTL = [sys.executable, "-c", "from gserver.control.cli import entry_point; entry_point()"]


class Ports:
    """Addresses by short names: each is a free port."""

    def __init__(self) -> None:
        self._ports = NamedPorts()

    def __getitem__(self, name: str) -> str:
        return f"{HOST}:{self.port(name)}"

    def port(self, name: str) -> int:
        return self._ports[name]

    def connect(self, name: str, codec: Codec | None = None, **options: Any) -> Client:
        return Client((HOST, self.port(name)), codec or Lines(), **options)

    def ask(self, name: str, codec: Codec | None = None, **options: Any) -> bytes:
        with self.connect(name, codec, **options) as client:
            reply: bytes = client.call(b"hello")
            return reply


@pytest.fixture
def ports() -> Ports:
    return Ports()


def configure(folder: Path, listeners: dict[str, dict[str, Any]], **values: Any) -> None:
    text = "".join(f"{name} = {value!r}\n" for name, value in {"listeners": listeners, **values}.items())
    (folder / CONF).write_text(text)


def start(folder: Path, *arguments: str, workers: int = 2, more: str = "") -> GserverProcess:
    """Start a server with CONF. more: code of shop.py, after SHOP."""
    (folder / "shop.py").write_text(SHOP + more)
    given = ("-c", CONF, "-p", "gserver.pid", "--reload-settle", "0", "--control-socket", "ctl", *arguments)
    return GserverProcess(folder, *given, bind=None, workers=workers)


@contextlib.contextmanager
def both(ports: Ports) -> Iterator[tuple[Client, Client]]:
    """A client of `devices` and one of `admin`, each with a reply."""
    with ports.connect("devices") as devices, ports.connect("admin", LengthPrefixed()) as admin:
        for client in (devices, admin):
            client.call(b"x")
        yield devices, admin


def await_exchanges(swarm: Swarm) -> None:
    before = swarm.tally.verified
    wait_for(lambda: swarm.tally.verified > before + 100, "100 more exchanges")


def is_refused(ports: Ports, name: str) -> bool:
    try:
        ports.connect(name).close()
    except ConnectionRefusedError:
        return True
    return False


def gserverctl(folder: Path, *words: str) -> str:
    command = [*GSERVERCTL, "-s", str(folder / "ctl"), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended
    return ended.stdout


def rows(folder: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gserverctl(folder, *words, "--json"))["rows"]
    return found


def reload_now(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_gserver("--reload-pid", "gserver.pid", cwd=folder)


def events(folder: Path, what: str) -> list[str]:
    lines = (folder / "events").read_text().splitlines()
    return [line.rpartition(" ")[2] for line in lines if line.startswith(f"{what} ")]


TWO = {"app": "shop:make_devices", "name": "devices"}, {"app": "shop:admin", "name": "admin"}


def two(ports: Ports, **devices: Any) -> dict[str, dict[str, Any]]:
    return {ports["devices"]: {**TWO[0], **devices}, ports["admin"]: {**TWO[1]}}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# Serving


def test_two_protocols_are_served_one_with_tls(tmp_path: Path, ports: Ports, certificates: CertificateFiles) -> None:
    tls = {"certfile": certificates.certfile, "keyfile": certificates.keyfile}
    configure(tmp_path, two(ports, **tls))
    with start(tmp_path) as server:
        options: dict[str, Any] = {"ssl_context": certificates.client_context(), "server_hostname": "localhost"}
        for _ in range(8):
            assert ports.ask("devices", **options) == b"devices hello"
            assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        workers = server.serving_pids()
        assert [row["tls"] for row in rows(tmp_path, "listeners")] == [True, False]
        assert json.loads(gserverctl(tmp_path, "status", "--json"))["certificate_not_after"] > time.time()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    pids = sorted(map(str, workers))
    for app in ("devices", "admin"):
        for what in ("made", "ready", "stop"):
            assert sorted(events(tmp_path, f"{what} {app}")) == pids
    assert "Traceback" not in server.log


def test_an_app_of_several_listeners_is_loaded_once(tmp_path: Path, ports: Ports) -> None:
    listeners = two(ports)
    listeners[ports["more"]] = {"app": "shop:make_devices", "name": "more"}
    configure(tmp_path, listeners)
    with start(tmp_path, workers=1):
        assert ports.ask("devices") == b"devices hello"
        assert ports.ask("more") == b"more hello"
        assert len(events(tmp_path, "made devices")) == len(events(tmp_path, "ready devices")) == 1


def test_a_bare_handler_may_be_beside_a_service(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, {**two(ports), ports["bare"]: {"app": "shop:bare"}})
    with start(tmp_path, workers=1):
        assert ports.ask("devices") == b"devices hello"
        with socket.create_connection((HOST, ports.port("bare")), PATIENCE_S) as sock:
            assert sock.makefile("rb").read() == b"bare"


@pytest.mark.parametrize("options", [("--preload",), ("--reuse-port",), ("--greenlets", "dedicated")])
def test_every_way_to_run_workers(tmp_path: Path, ports: Ports, options: tuple[str, ...]) -> None:
    configure(tmp_path, two(ports))
    with start(tmp_path, *options) as server:
        for _ in range(8):
            assert ports.ask("devices") == b"devices hello"
            assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        if "--preload" in options:
            assert len((tmp_path / "imports").read_text().split()) == 1
        assert reload_now(tmp_path).returncode == 0
        server.kill_worker(server.serving_pids()[0])
        assert ports.ask("devices") == b"devices hello"


def test_a_worker_gets_more_sockets_than_fit_into_a_message(tmp_path: Path, ports: Ports) -> None:
    names = [f"n{number}" for number in range(130)]
    configure(tmp_path, {ports[name]: {"app": "shop:make_devices", "name": name} for name in names})
    with start(tmp_path, "--reuse-port", workers=3) as server:
        gserverctl(tmp_path, "workers", "remove")
        wait_for(lambda: len(server.serving_pids()) == 2, "another worker has the sockets of the first")
        gserverctl(tmp_path, "workers", "remove")
        wait_for(lambda: len(server.serving_pids()) == 1, "one worker has the sockets of all")
        for name in (names[0], names[129]):
            for _ in range(12):  # the kernel chooses one of three sockets each time
                assert ports.ask(name) == b"%b hello" % name.encode()


def test_a_stop_that_does_not_end_is_killed_and_the_others_are_called(tmp_path: Path, ports: Ports) -> None:
    stubborn = """
import gevent
def stop():
    note("stubborn")
    while True:
        try:
            gevent.sleep(3600)
        except gevent.GreenletExit:
            pass
stubborn = Service(answer, Lines, stop=stop)
"""
    configure(tmp_path, {ports["x"]: {"app": "shop:stubborn"}, **two(ports)}, graceful_timeout=0)
    with start(tmp_path, workers=1, more=stubborn) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert len(events(tmp_path, "stubborn")) == len(events(tmp_path, "stop devices")) == 1
    assert "stop() of the service did not return within 1 s and is killed" in server.log
    assert "Traceback" not in server.log


def test_a_listener_has_its_own_access_list(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports, deny=["127.0.0.0/8"]), accesslog="access")
    with start(tmp_path):
        with contextlib.closing(socket.create_connection((HOST, ports.port("devices")), PATIENCE_S)) as sock:
            assert sock.recv(10) == b""
        assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        # The address list of the whole server holds for the listeners that have none.
        gserverctl(tmp_path, "set", "deny", "127.0.0.1")
        with contextlib.closing(socket.create_connection((HOST, ports.port("admin")), PATIENCE_S)) as sock:
            assert sock.recv(10) == b""
        gserverctl(tmp_path, "set", "deny")
        assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        with contextlib.closing(socket.create_connection((HOST, ports.port("devices")), PATIENCE_S)) as sock:
            assert sock.recv(10) == b""
    reasons = [line.split('"')[1] for line in (tmp_path / "access").read_text().splitlines()]
    assert sorted(reasons) == ["denied"] * 3 + ["peer_eof"] * 2


def test_a_listener_has_its_own_deadlines(tmp_path: Path, ports: Ports) -> None:
    listeners = two(ports, idle_timeout=0.3, message_timeout=60)
    listeners[ports["admin"]] |= {"message_timeout": 0.3}
    configure(tmp_path, listeners, idle_timeout=60, accesslog="access")
    with start(tmp_path, workers=1), contextlib.ExitStack() as stack:
        quiet = {
            name: stack.enter_context(socket.create_connection((HOST, ports.port(name)), PATIENCE_S))
            for name in ("devices", "admin")
        }
        quiet["devices"].sendall(b"x\n")  # idle afterwards
        quiet["admin"].sendall(b"\0\0\0\1x")
        partial = {
            name: stack.enter_context(socket.create_connection((HOST, ports.port(name)), PATIENCE_S))
            for name in ("devices", "admin")
        }
        for sock in partial.values():
            sock.sendall(b"\0")  # the beginning of a message
        assert quiet["devices"].makefile("rb").read() == b"devices x\n"
        assert partial["admin"].makefile("rb").read() == b""
        left = {(row["listener"], row["messages"]) for row in rows(tmp_path, "connections")}
        assert left == {("devices", 0), ("admin", 1)}
    reasons = [line.split('"')[1] for line in (tmp_path / "access").read_text().splitlines()]
    assert sorted(reasons[:2]) == ["idle_timeout", "message_timeout"]


def test_live_settings_change_the_listeners_that_inherit_them(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports, idle_timeout=60))
    with start(tmp_path, workers=1), both(ports) as (devices, admin):
        gserverctl(tmp_path, "set", "idle_timeout", "0.2")
        with pytest.raises(ConnectionClosed):
            admin.recv()
        assert devices.call(b"x") == b"devices x"


def test_limits_of_the_server_count_all_listeners(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports), max_connections_per_ip=2)
    with start(tmp_path, workers=1), ports.connect("devices") as one, ports.connect("admin", LengthPrefixed()) as two_:
        one.call(b"x")
        two_.call(b"x")
        for name in ("devices", "admin"):
            with contextlib.closing(socket.create_connection((HOST, ports.port(name)), PATIENCE_S)) as sock:
                assert sock.recv(10) == b""


def test_a_listener_has_its_own_proxy_protocol(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports, proxy_protocol="v1"))
    with start(tmp_path, workers=1):
        with socket.create_connection((HOST, ports.port("devices")), PATIENCE_S) as sock:
            sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\nhi\n")
            assert sock.makefile("rb").readline() == b"devices hi\n"
            (row,) = rows(tmp_path, "connections")
            assert (row["listener"], row["address"]) == ("devices", "192.0.2.7")
        assert ports.ask("admin", LengthPrefixed()) == b"admin hello"


def test_new_certificates_of_a_listener_are_loaded(tmp_path: Path, ports: Ports) -> None:
    old = {name: make_certificates(tmp_path / name) for name in ("devices", "admin")}
    configure(
        tmp_path,
        {
            ports[name]: {**entry, "certfile": old[name].combined}
            for name, entry in zip(("devices", "admin"), TWO, strict=True)
        },
    )

    def ask(name: str, files: CertificateFiles) -> bytes:
        codec = Lines() if name == "devices" else LengthPrefixed()
        return ports.ask(name, codec, ssl_context=files.client_context(), server_hostname="localhost")

    with start(tmp_path, workers=1):
        assert [ask(name, old[name]) for name in old] == [b"devices hello", b"admin hello"]
        new = make_certificates(tmp_path / "admin")

        def is_new() -> bool:
            try:
                return ask("admin", new) == b"admin hello"
            except ssl.SSLError:
                return False

        wait_for(is_new, "the new certificate is used")
        assert ask("devices", old["devices"]) == b"devices hello"


def test_a_failing_app_fails_the_start_and_is_named(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "broken.py").write_text("1 / 0")
    configure(tmp_path, {**two(ports), ports["more"]: {"app": "broken:app"}})
    checked = run_gserver("-c", CONF, "--check-config", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (
        1,
        f"gserver: 'broken:app' cannot be imported: ZeroDivisionError: division by zero ({tmp_path}/broken.py:1)\n",
    )
    ended = run_gserver("-c", CONF, cwd=tmp_path)
    assert ended.returncode == 3
    assert "'broken:app' cannot be imported\nTraceback" in ended.stderr


def test_an_app_that_does_not_pass_its_probe_is_named(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "shop.py").write_text(f"{SHOP}\nwrong = Service(lambda m, c: 1 / 0, Lines, probe=b'?')\n")
    configure(tmp_path, {**two(ports), ports["more"]: {"app": "shop:wrong"}})
    checked = run_gserver("-c", CONF, "--check-config", cwd=tmp_path)

    assert checked.returncode == 1
    assert checked.stderr.startswith(
        "gserver: 'shop:wrong': the probe was not answered: the handler raised ZeroDivisionError"
    )


def test_the_configuration_is_checked_and_printed(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    configure(tmp_path, two(ports))
    checked = run_gserver("-c", CONF, "--check-config", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "gserver: shop:make_devices, shop:admin can be served\n")
    printed = run_gserver("-c", CONF, "--print-config", cwd=tmp_path).stdout
    assert f"listeners = {two(ports)!r}\n" in printed
    for words in (["shop:admin"], ["-b", ports["other"]]):
        refused = run_gserver("-c", CONF, *words, cwd=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "cannot be used beside the setting listeners" in refused.stderr


# Reload


@pytest.mark.parametrize("options", [(), ("--reuse-port",), ("--preload",)], ids=["shared", "reuse_port", "preload"])
def test_a_reload_adds_and_removes_a_listener_and_the_other_one_loses_nothing(
    tmp_path: Path, ports: Ports, options: tuple[str, ...]
) -> None:
    (tmp_path / "lines.py").write_text(LINE_APP)
    kept = {ports["kept"]: {"app": "lines:app", "name": "kept"}}
    configure(tmp_path, {**kept, ports["removed"]: TWO[0]})
    with start(tmp_path, *options) as server:
        assert ports.ask("removed") == b"devices hello"
        with Swarm((HOST, ports.port("kept"))) as swarm:
            await_exchanges(swarm)
            configure(tmp_path, {ports["added"]: TWO[1], **kept})
            assert reload_now(tmp_path).stderr == ""
            assert "Reloading with new workers: setting listeners has changed" in server.log
            assert ports.ask("added", LengthPrefixed()) == b"admin hello"
            wait_for(lambda: is_refused(ports, "removed"), "the removed address is closed")
            await_exchanges(swarm)
        assert swarm.tally.faults == []
        assert [row["name"] for row in rows(tmp_path, "listeners")] == ["kept", "admin"]
        configure(tmp_path, {ports["added"]: {**TWO[1], "name": "renamed"}})
        assert reload_now(tmp_path).returncode == 0
        assert ports.ask("added", LengthPrefixed()) == b"renamed hello"


def test_a_reload_may_change_the_app_of_an_address(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, {ports["x"]: TWO[0]})
    with start(tmp_path):
        assert ports.ask("x") == b"devices hello"
        configure(tmp_path, {ports["x"]: TWO[1]})
        assert reload_now(tmp_path).returncode == 0
        assert ports.ask("x", LengthPrefixed()) == b"admin hello"


@pytest.mark.parametrize(
    ("listeners", "why"),
    [
        ({"app": "shop:nothing"}, "module 'shop' has no 'nothing', in 'shop:nothing'"),
        ({"app": "shop:admin", "idle_timeout": "x"}, "idle_timeout is 'x', must be a number of seconds, 0 or more"),
        ({"app": "shop:admin", "certfile": "nothing.pem"}, "nothing.pem"),
        (None, "setting listeners is missing: the server was started without APP"),
    ],
)
def test_a_failed_reload_changes_nothing(
    tmp_path: Path, ports: Ports, listeners: dict[str, Any] | None, why: str
) -> None:
    configure(tmp_path, two(ports))
    with start(tmp_path) as server:
        before = server.serving_pids()
        changed = {ports["admin"]: TWO[1], ports["more"]: listeners}
        configure(tmp_path, changed if listeners else None)  # type: ignore[arg-type]
        failed = reload_now(tmp_path)
        assert failed.returncode == 1
        assert why in failed.stderr
        assert ports.ask("devices") == b"devices hello"
        assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        assert is_refused(ports, "more")
        assert server.serving_pids() == before
        assert [row["name"] for row in rows(tmp_path, "listeners")] == ["devices", "admin"]


def test_other_live_settings_keep_the_workers(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports, idle_timeout=7), write_timeout=3)
    with start(tmp_path) as server:
        before = server.serving_pids()
        configure(tmp_path, two(ports, idle_timeout=7), write_timeout=4)
        assert "every connection is kept" in run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path).stdout
        assert server.serving_pids() == before


# Upgrade and sockets of systemd


def test_an_upgrade_inherits_the_listeners(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "lines.py").write_text(LINE_APP)
    configure(tmp_path, {ports["kept"]: {"app": "lines:app"}, **two(ports)})
    with start(tmp_path) as server, Swarm((HOST, ports.port("kept"))) as swarm:
        await_exchanges(swarm)
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 4)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert ports.ask("devices") == b"devices hello"
        assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        await_exchanges(swarm)
        swarm.stop()
        new = server.arbiter
        new.terminate()
        wait_for(lambda: not new.is_running(), "the new arbiter has ended")
    assert swarm.tally.faults == []


def test_an_upgrade_reads_the_listeners_again(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports))
    with start(tmp_path) as server:
        assert ports.ask("devices") == b"devices hello"
        configure(tmp_path, {ports["admin"]: {**TWO[1], "name": "renamed"}, ports["added"]: TWO[0]})
        gserverctl(tmp_path, "upgrade")
        assert ports.ask("admin", LengthPrefixed()) == b"renamed hello"
        assert ports.ask("added") == b"devices hello"
        wait_for(lambda: is_refused(ports, "devices"), "the removed address is closed")
        assert [row["name"] for row in rows(tmp_path, "listeners")] == ["renamed", "devices"]
        new = server.arbiter
        new.terminate()
        wait_for(lambda: not new.is_running(), "the new arbiter has ended")


needs_activation = pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate"
)


@contextlib.contextmanager
def activated(folder: Path, ports: Ports, names: str, workers: int = 2) -> Iterator[GserverProcess]:
    """A server with two passed sockets, `first` and `second`, of these names (NAME:NAME)."""
    (folder / "shop.py").write_text(SHOP)
    listening = ["-l", ports["first"], "-l", ports["second"], f"--fdname={names}", "-E", f"PYTHONPATH={ROOT}"]
    own = [sys.executable, "-m", "gserver", "-c", CONF, "-p", "gserver.pid", "-w", str(workers), "--reload-settle", "0"]
    command = ["systemd-socket-activate", *listening, *own]
    server = GserverProcess(folder, command=command, ready="Listening on")
    with server:
        yield server


@needs_activation
def test_passed_sockets_are_matched_by_name_over_reload_and_upgrade(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, {**two(ports), ports["own"]: {"app": "shop:admin", "name": "own"}})
    with activated(tmp_path, ports, "admin:devices") as server:
        assert ports.ask("first", LengthPrefixed()) == b"admin hello"  # this also starts the server
        assert ports.ask("second") == b"devices hello"
        assert ports.ask("own", LengthPrefixed()) == b"own hello"
        assert is_refused(ports, "devices")
        server.wait_for_log("Worker ready", 2)
        assert reload_now(tmp_path).returncode == 0
        assert ports.ask("second") == b"devices hello"
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 6)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert ports.ask("first", LengthPrefixed()) == b"admin hello"
        assert ports.ask("second") == b"devices hello"
        new = server.arbiter
        new.terminate()
        wait_for(lambda: not new.is_running(), "the new arbiter has ended")


@needs_activation
def test_a_listener_may_have_several_passed_sockets(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports))
    with activated(tmp_path, ports, "devices:devices"):
        assert ports.ask("first") == b"devices hello"
        assert ports.ask("second") == b"devices hello"
        assert ports.ask("admin", LengthPrefixed()) == b"admin hello"
        assert is_refused(ports, "devices")


@needs_activation
def test_a_passed_socket_of_another_name_stops_the_start(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports))
    with activated(tmp_path, ports, "admin:other") as server:
        with socket.create_connection((HOST, ports.port("first")), PATIENCE_S):
            assert server.process.wait(PATIENCE_S) == 1
        assert (
            "gserver: the socket fd://4 that systemd has passed has the name 'other' (FileDescriptorName=), "
            "must be the name of a listener: devices, admin\n"
        ) in server.log


# What operators see


def test_operators_know_the_listeners_by_name(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports), accesslog="access", log_format="json")
    with start(tmp_path), both(ports) as (_, admin):
        table = gserverctl(tmp_path, "listeners").splitlines()
        assert table[0].split() == ["NAME", "ADDRESS", "APP", "TLS", "SOCKETS", "QUEUED", "BACKLOG"]
        assert table[1].split() == ["devices", ports["devices"], "shop:make_devices", "no", "1", "0", "2048"]
        assert table[2].split() == ["admin", ports["admin"], "shop:admin", "no", "1", "0", "2048"]
        (row,) = rows(tmp_path, "connections", "--listener", "admin")
        assert row["listener"] == "admin"
        (row,) = rows(tmp_path, "connections", "--where", "listener=devices")
        assert row["listener"] == "devices"
        status = gserverctl(tmp_path, "status")
        assert f"listening    devices at {ports['devices']}, admin at {ports['admin']}\n" in status
        assert "shop:make_devices, shop:admin, gserver" in status
        assert gserverctl(tmp_path, "close", "--listener", "devices") == "closed: 1\n"
        assert admin.call(b"x") == b"admin x"
    fields = [json.loads(line) for line in (tmp_path / "access").read_text().splitlines()]
    assert sorted((each["listener"], each["reason"]) for each in fields) == [
        ("admin", "peer_eof"),
        ("devices", "administrative"),
    ]


def test_the_access_log_may_have_the_name(tmp_path: Path, ports: Ports) -> None:
    configure(tmp_path, two(ports), accesslog="access", access_log_format="%(listener)s %(r)s")
    with start(tmp_path, workers=1):
        ports.ask("devices")
        ports.ask("admin", LengthPrefixed())
    assert sorted((tmp_path / "access").read_text().splitlines()) == ["admin peer_eof", "devices peer_eof"]


def test_without_the_setting_the_name_is_the_address(tmp_path: Path, ports: Ports) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with GserverProcess(tmp_path, "shop:make_devices", bind=ports["x"]):
        assert ports.ask("x") == ports["x"].encode() + b" hello"


# The page


def test_the_section_of_the_page_is_true(tmp_path: Path, ports: Ports) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (section,) = re.findall(r"^## Several ports\n(.*?)(?=^## )", page, re.M | re.S)
    blocks = re.findall(r"^```python\n# (\w+)\.py[^\n]*\n(.*?)^```", section, re.M | re.S)
    assert [name for name, _ in blocks] == ["shop", "ports"]
    files = make_certificates(tmp_path / "files")
    for name, text in blocks:
        replaced = re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", lambda found: ports[found[1]], text)
        (tmp_path / f"{name}.py").write_text(replaced.replace("devices.pem", files.combined))
    options: dict[str, Any] = {"ssl_context": files.client_context(), "server_hostname": "localhost"}
    given = ("-c", "ports.py", "--control-socket", "ctl")
    with GserverProcess(tmp_path, *given, bind=None, workers=None):
        assert ports.ask("5000", **options) == b"devices: hello"
        assert ports.ask("5001") == b"admin: hello"
        shown = re.findall(r"^```console\n(.*?)^```", section, re.M | re.S)[-1]
        _, *lines = shown.splitlines()
        columns = [line.split()[0:4:3] + line.split()[2:3] for line in gserverctl(tmp_path, "listeners").splitlines()]
        assert [line.split()[0:4:3] + line.split()[2:3] for line in lines] == columns
