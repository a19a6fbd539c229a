"""A HUP that changes live settings only keeps every connection; every other one is a reload with new workers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from gserver.control.client import ControlClient
from gserver.control.protocol import Problem
from tests.helpers.processes import GserverProcess, run_gserver, wait_for
from tests.helpers.swarm import LINE_APP, Swarm

pytestmark = pytest.mark.long

KEPT = "gserver: reloaded with other settings: every connection is kept\n"
REPLACED = "gserver: reloaded with new workers\n"
#: Greets with the pid, waits for "wait", and imports a module for "import".
APP = """
import os
import gevent
from gserver import Lines, Service

def greet(conn):
    conn.send(b"%d" % os.getpid())

def answer(line, conn):
    if line == b"wait":
        gevent.sleep(3600)
    if line == b"import":
        import later
        return later.TEXT
    return line

app = Service(answer, Lines, on_open=greet, probe=b"probe")
"""
QUICK = ("--reload-settle", "0.1", "--drain-spread", "0", "--graceful-timeout", "1")


class Server(GserverProcess):
    """A server with a pid file, a control socket and a config file, in its folder."""

    def __init__(self, folder: Path, *arguments: str, config: str = "", app: str = APP, **options: Any) -> None:
        self.folder = folder
        self.write_app(app)
        self.write_config(config)
        self.pidfile, self.control = str(folder / "gserver.pid"), str(folder / "ctl")
        given = ("app:app", "--pid", self.pidfile, "--control-socket", self.control, *QUICK, *arguments)
        super().__init__(folder, *given, **options)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def write_config(self, text: str) -> None:
        (self.folder / "gserver.conf.py").write_text(text)

    def write_app(self, text: str, name: str = "app") -> None:
        (self.folder / f"{name}.py").write_text(text)
        for cached in self.folder.glob(f"__pycache__/{name}.*"):
            cached.unlink()

    def reload(self, config: str | None = None) -> str:
        """Reload, with another config file; return what the command prints."""
        if config is not None:
            self.write_config(config)
        ended = run_gserver("--reload-pid", self.pidfile)
        return ended.stdout + ended.stderr

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        with ControlClient(self.control) as client:
            return client.call(command, **arguments)

    def value_of(self, name: str) -> str:
        """The value of a setting, as the server has it."""
        values = {row["name"]: row["value"] for row in self.call("settings")["rows"]}
        return str(values[name])

    @contextlib.contextmanager
    def talking(self, count: int = 1) -> Iterator[list[Client]]:
        """Clients that are connected, and have received their greeting."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(self.address, Lines())) for _ in range(count)]
            for client in clients:
                int(client.recv())
            yield clients

    def wait_until_complete(self, workers: int) -> None:
        wait_for(lambda: self.states() == ["serving"] * workers, f"{workers} workers serve, and no others are there")

    def states(self) -> list[str]:
        return [row["state"] for row in self.call("workers")["rows"]]


def is_served(client: Client) -> bool:
    """Whether the connection is still there, and a message is answered."""
    try:
        return bool(client.call(b"hello") == b"hello")
    except Exception:
        return False


# What is kept


@pytest.mark.parametrize(
    ("options", "workers"),
    [((), 2), (("--greenlets", "dedicated"), 2), (("--reuse-port",), 2), (("--preload",), 2)],
    ids=["pooled", "dedicated", "reuse_port", "preload"],
)
def test_a_reload_of_live_settings_keeps_every_connection_and_answers_each_message(
    tmp_path: Path, options: tuple[str, ...], workers: int
) -> None:
    configs = [
        "idle_timeout = 200\nmax_message_rate = 100000\n",
        "max_connections_per_ip = 5000\nmax_accept_rate = 10000\nloglevel = 'warning'\nloglevel = 'info'\n",
        "block_warning = 2\nmax_requests = 10_000_000\nworker_connections = 5000\n",
        "",
    ]
    with Server(tmp_path, *options, app=LINE_APP, workers=workers) as server:
        pids = server.serving_pids()
        with Swarm(server.address, long=30, short=4) as swarm:
            wait_for(lambda: swarm.tally.verified > 100, "there is traffic")
            for _ in range(2):
                for config in configs:
                    before = swarm.tally.verified
                    assert server.reload(config) == KEPT
                    wait_for(lambda: swarm.tally.verified > before + 100, "the traffic goes on")  # noqa: B023
        assert (swarm.tally.faults, swarm.tally.turned_away, set(swarm.tally.ended)) == ([], 0, {"by the client"})
        assert server.serving_pids() == pids
        assert server.log.count("Reloaded: the running workers go on with other settings") == 8
        assert server.call("status")["reloads"]["last"]["kind"] == "settings only"
        assert "Traceback" not in server.log


def test_other_values_hold_for_connections_that_are_open(tmp_path: Path) -> None:
    with Server(tmp_path, config="idle_timeout = 500\n") as server, server.talking(3) as clients:
        assert server.reload("idle_timeout = 0.5\n") == KEPT
        wait_for(lambda: server.call("status")["connections"]["open"] == 0, "idle connections are closed")
        assert not any(map(is_served, clients))


def test_the_reason_for_new_workers_and_the_names_of_live_settings_are_in_the_log(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.reload("idle_timeout = 77\ngraceful_timeout = 2\n") == KEPT
        assert server.reload("idle_timeout = 77\ngraceful_timeout = 2\n") == REPLACED
        assert server.reload("idle_timeout = 77\ngraceful_timeout = 2\nraw_env = ['A=1']\n") == REPLACED

        assert "Reloaded: the running workers go on with other settings (idle_timeout)" in server.log
        assert re.findall("Reloading with new workers: (.*)", server.log) == [
            "no setting has changed",
            "setting raw_env has changed",
        ]


# Otherwise there are new workers


@pytest.mark.parametrize(
    "config",
    [
        "",
        "idle_timeout = 77\nraw_env = ['A=1']\n",
        "idle_timeout = 77\nmax_message_size = 1000\n",
        "idle_timeout = 77\nbacklog = 99\n",
        "idle_timeout = 77\nbind = ['127.0.0.1:0', 'unix:more']\n",
        "idle_timeout = 77\ndef post_fork(server, worker):\n    pass\n",
    ],
    ids=["nothing", "not live", "codec", "fixed", "bind", "hook"],
)
def test_anything_else_needs_new_workers(tmp_path: Path, config: str) -> None:
    with Server(tmp_path, bind=None, config="bind = '127.0.0.1:0'\n") as server, server.talking() as (client,):
        given = config if "bind" in config else f"bind = '127.0.0.1:0'\n{config}"
        before = server.serving_pids()
        assert server.reload(given) == REPLACED
        wait_for(lambda: not set(before) & set(server.serving_pids()), "the old worker has ended")
        assert not is_served(client)
        expected = "77.0" if "idle_timeout" in config else "300.0"
        assert float(server.value_of("idle_timeout")) == float(expected)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_changed_file_needs_new_workers_whatever_its_times(tmp_path: Path, options: tuple[str, ...]) -> None:
    app = tmp_path / "app.py"
    with Server(tmp_path, *options) as server:
        assert server.reload("idle_timeout = 71\n") == KEPT
        status = app.stat()
        with app.open("r+b") as file:  # in place, of the same length, and with the same times
            file.write(APP.replace("3600", "3601").encode())
        os.utime(app, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert server.reload("idle_timeout = 72\n") == REPLACED
        assert f"Reloading with new workers: {app} has changed" in server.log
        assert server.reload("idle_timeout = 73\n") == KEPT
        app.unlink()
        assert "reload failed" in server.reload("idle_timeout = 74\n")
        server.write_app(APP)
        assert server.reload("idle_timeout = 75\n") == REPLACED


def test_a_module_that_was_imported_later_counts_too(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.write_app("TEXT = b'one'", "later")
        with server.talking() as (client,):
            assert client.call(b"import") == b"one"
            assert server.reload("idle_timeout = 72\n") == REPLACED  # the file is newer than the worker
        with server.talking() as (client,):
            assert client.call(b"import") == b"one"
            assert server.reload("idle_timeout = 73\n") == KEPT
            assert client.call(b"import") == b"one"
            server.write_app("TEXT = b'two'", "later")
            assert server.reload("idle_timeout = 74\n") == REPLACED
        with server.talking() as (client,):
            assert client.call(b"import") == b"two"


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_another_release_needs_new_workers(tmp_path: Path, options: tuple[str, ...]) -> None:
    for release in ("r1", "r2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "app.py").write_text(APP.replace("return line", f"return b'{release}'"))
        os.utime(tmp_path / release / "app.py", (1e9, 1e9))
    (tmp_path / "current").symlink_to("r1")
    with Server(tmp_path, "--chdir", str(tmp_path / "current"), *options) as server:
        assert server.reload("idle_timeout = 71\n") == KEPT
        (tmp_path / "next").symlink_to("r2")
        (tmp_path / "next").replace(tmp_path / "current")
        assert server.reload("idle_timeout = 72\n") == REPLACED
        assert "current has changed" in server.log
        with server.talking() as (client,):
            assert client.call(b"?") == b"r2"
        assert server.reload("idle_timeout = 73\n") == KEPT


def test_a_module_that_the_config_file_imports_counts_too(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SECONDS = 71\n")
    config = "import sys; sys.path.insert(0, '.')\nimport helper\n"
    with Server(tmp_path, config=config) as server:
        assert server.reload(config + "idle_timeout = helper.SECONDS\n") == KEPT
        (tmp_path / "helper.py").write_text("SECONDS = 72\n")
        assert server.reload(config + "idle_timeout = helper.SECONDS + 1\n") == REPLACED


HOOKS = """
import functools
LIMIT = 1

def helper():
    return LIMIT

def post_fork(server, worker):
    helper()

connection_open = lambda worker, conn: None
"""


def test_hooks_that_are_the_same_are_no_change(tmp_path: Path) -> None:
    with Server(tmp_path, config=HOOKS) as server, server.talking() as (client,):
        assert server.reload("# a line more\n" + HOOKS + "idle_timeout = 71\n") == KEPT
        assert is_served(client)
        assert server.reload(HOOKS.replace("LIMIT = 1", "LIMIT = 2") + "idle_timeout = 72\n") == REPLACED


def test_another_number_of_workers_needs_new_workers(tmp_path: Path) -> None:
    with Server(tmp_path, config="workers = 1\n", workers=None) as server:
        assert server.reload("workers = 2\nidle_timeout = 71\n") == REPLACED
        server.wait_until_complete(2)
        assert server.reload("workers = 2\nidle_timeout = 72\n") == KEPT
        server.signal(signal.SIGTTIN)
        server.wait_until_complete(3)
        assert server.reload("workers = 2\nidle_timeout = 73\n") == KEPT
        server.wait_until_complete(3)


def test_a_wrong_config_file_changes_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, config="idle_timeout = 71\n") as server, server.talking() as (client,):
        for config in ("idle_timeout = -1\n", "idle_timeout = ", "min_workers = 9\n", "drain_spread = 99\n1 / 0\n"):
            assert server.reload(config).startswith("gserver: the reload failed: ")
        assert float(server.value_of("idle_timeout")) == 71
        assert is_served(client)
        assert server.reload("idle_timeout = 72\n") == KEPT


# Workers that do not answer


def test_a_worker_that_is_stuck_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path, "--timeout", "0", workers=2) as server:
        before = server.serving_pids()
        os.kill(before[0], signal.SIGSTOP)
        try:
            assert server.reload("idle_timeout = 71\n") == REPLACED
            assert f"worker {before[0]}: the worker does not answer" in server.log
        finally:
            with contextlib.suppress(ProcessLookupError):  # on a busy host the arbiter has killed it meanwhile
                os.kill(before[0], signal.SIGCONT)
        server.wait_until_complete(2)
        assert not set(before) & set(server.serving_pids())


def test_a_worker_that_dies_before_it_answers_is_a_reason_for_new_ones(tmp_path: Path) -> None:
    with Server(tmp_path, "--timeout", "0", workers=2) as server:
        before = server.serving_pids()
        os.kill(before[0], signal.SIGSTOP)
        server.write_config("idle_timeout = 71\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloading")
        os.kill(before[0], signal.SIGKILL)
        server.wait_for_log("Reloading with new workers: worker .* the worker (has ended|does not)")
        server.wait_for_log("Reloaded")
        server.wait_until_complete(2)
        assert not set(before) & set(server.serving_pids())
        assert float(server.value_of("idle_timeout")) == 71


def test_a_worker_that_boots_is_a_reason_for_new_ones(tmp_path: Path) -> None:
    slow = APP + "import os, time\nwhile os.path.exists('hold'):\n    time.sleep(0.01)\n"
    with Server(tmp_path, app=slow) as server:
        (tmp_path / "hold").touch()
        server.signal(signal.SIGTTIN)
        server.wait_for_log("Booting worker", 2)
        server.write_config("idle_timeout = 71\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloading with new workers: a worker is starting")
        (tmp_path / "hold").unlink()
        server.wait_for_log("Reloaded")
        assert float(server.value_of("idle_timeout")) == 71


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("delay", ["0", "1"])
def test_a_stop_meanwhile_ends_the_reload(tmp_path: Path, number: int, delay: str) -> None:
    with Server(tmp_path, "--timeout", "0", "--shutdown-delay", delay) as server:
        (pid,) = server.serving_pids()
        os.kill(pid, signal.SIGSTOP)
        server.write_config("idle_timeout = 71\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloading")
        server.signal(number)
        server.wait_for_log("Reload failed, the old workers go on: the server is stopping")
        os.kill(pid, signal.SIGCONT)
        assert server.wait() == 0
        assert "with new workers" not in server.log


def test_reloads_at_the_same_time_end_with_the_last_configuration(tmp_path: Path) -> None:
    with Server(tmp_path, workers=2) as server, server.talking(4) as clients:
        for seconds in range(71, 91):
            server.write_config(f"idle_timeout = {seconds}\n")
            server.signal(signal.SIGHUP)
        wait_for(lambda: float(server.value_of("idle_timeout")) == 90, "the last configuration is applied")
        assert "with new workers" in server.log or all(map(is_served, clients))
        server.wait_until_complete(2)
        assert server.reload("idle_timeout = 91\n") == KEPT


def test_a_broken_configuration_abandons_a_reload_that_is_not_decided(tmp_path: Path) -> None:
    with Server(tmp_path, "--timeout", "0") as server:
        (pid,) = server.serving_pids()
        os.kill(pid, signal.SIGSTOP)
        server.write_config("idle_timeout = 71\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloading")
        server.write_config("1 / 0\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reload failed, the old workers go on: config file")
        os.kill(pid, signal.SIGCONT)
        with server.talking() as (client,):
            assert is_served(client)
        assert server.serving_pids() == [pid]
        assert float(server.value_of("idle_timeout")) == 300
        assert "with new workers" not in server.log


# gserverctl set


def lists_of(count: int) -> list[str]:
    return [f"10.{number >> 8}.{number & 255}.0/24" for number in range(count)]


def refused(server: Server, **values: Any) -> str:
    with pytest.raises(Problem) as caught:
        server.call("set", values=values)
    return str(caught.value)


def test_set_holds_until_the_next_reload_or_start(tmp_path: Path) -> None:
    with Server(tmp_path, "--preload", workers=2) as server, server.talking(4) as clients:
        assert server.call("set", values={"idle_timeout": 71, "deny": ["192.0.2.0/24"]})["values"] == {
            "idle_timeout": 71.0,
            "deny": ["192.0.2.0/24"],
        }
        server.wait_for_log("Settings changed: ", 2)
        assert all(map(is_served, clients))
        server.kill_worker(server.serving_pids()[0])  # its replacement has the values, too
        server.wait_for_log("Settings changed: ", 3)
        server.wait_until_complete(2)
        assert server.reload() == KEPT
        assert float(server.value_of("idle_timeout")) == 300
        assert server.reload() == REPLACED


def test_a_worker_that_is_forked_later_has_the_values(tmp_path: Path) -> None:
    for options in ((), ("--preload",)):
        folder = tmp_path / ("preload" if options else "plain")
        folder.mkdir()
        with Server(folder, *options) as server:
            server.call("set", values={"deny": ["127.0.0.2"]})
            server.signal(signal.SIGTTIN)
            server.wait_until_complete(2)
            server.kill_worker(server.serving_pids()[0])
            server.wait_until_complete(2)
            for _ in range(10):
                with socket.create_connection(server.address, source_address=("127.0.0.2", 0), timeout=60) as client:
                    assert client.recv(100) == b""


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"idle_timeout": -1}, "setting idle_timeout is -1, must be a number of seconds"),
        ({"idle_timeout": "soon"}, "setting idle_timeout is 'soon'"),
        ({"idle_timeout": True}, "setting idle_timeout is True"),
        ({"idle_timeout": None}, "setting idle_timeout is None"),
        ({"idle_timeout": [1]}, r"setting idle_timeout is \[1\]"),
        ({"idle_timeout": {"a": 1}}, "setting idle_timeout is"),
        ({"max_connections": 1.5}, "setting max_connections is 1.5"),
        ({"max_connections": 10**30}, "setting max_connections is 1000000"),
        ({"allow": "10.0.0.1/8"}, "did you mean 10.0.0.0/8"),
        ({"allow": 7}, "setting allow is 7"),
        ({"allow": [["10.0.0.0/8"]]}, "setting allow is"),
        ({"loglevel": "loud"}, "setting loglevel is 'loud'"),
        ({"access_log_format": "%(nonsense"}, "setting access_log_format is"),
        ({"drain_spread": 99}, "setting drain_spread is 99, must be at most graceful_timeout"),
        ({"min_workers": 9}, "setting min_workers is 9, must be at most workers"),
        ({"workers": 2}, "setting workers needs new workers"),
        ({"bind": "127.0.0.1:0"}, "setting bind needs new workers"),
        ({"post_fork": "x"}, "setting post_fork needs new workers"),
        ({"nonsense": 1}, "unknown setting 'nonsense'"),
        ({"idle_timeout": 5, "bind": "x"}, "setting bind needs new workers"),
        ({}, "must be an object"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(shared: Server, values: dict[str, Any], says: str) -> None:
    assert re.search(says, refused(shared, **values))
    assert float(shared.value_of("idle_timeout")) == 300
    with shared.talking() as (client,):
        assert is_served(client)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_lists_that_are_too_long_are_refused_or_need_new_workers(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A message to a worker has 64 KiB. What does not fit is never lost."""
    with Server(tmp_path, *options) as server:
        server.call("set", values={"deny": lists_of(1500)})
        assert "too much for running workers: allow" in refused(server, allow=lists_of(3500))
        assert server.value_of("allow") == ""
        if options:  # both together would not fit into the message to a worker that is forked later
            assert "too much for running workers" in refused(server, allow=["127.0.0.1", *lists_of(2500)])
        allowed = ["127.0.0.1", *lists_of(10_000)]
        assert server.reload(f"allow = {json.dumps(allowed)}\n") == REPLACED
        assert "Reloading with new workers: too much for running workers" in server.log
        server.wait_until_complete(1)
        server.kill_worker(server.serving_pids()[0])
        with server.talking() as (client,):
            assert is_served(client)
        with socket.create_connection(server.address, source_address=("127.0.0.2", 0), timeout=60) as other:
            assert other.recv(100) == b""
        assert server.reload("deny = ['127.0.0.2']\n") == KEPT


def test_set_during_a_reload_holds_for_its_new_workers_and_if_it_fails(tmp_path: Path) -> None:
    slow = APP + "import os, time\nwhile os.path.exists('hold'):\n    time.sleep(0.01)\n"
    with Server(tmp_path, app=slow) as server:
        for ends, config in (("Reloaded; ", "raw_env = ['A=1']\n"), ("Reload failed", "raw_env = ['A=2']\n")):
            (tmp_path / "hold").touch()
            booted = server.log.count("Booting worker")
            server.write_config(config)
            server.signal(signal.SIGHUP)
            server.wait_for_log("Booting worker", booted + 1)
            server.call("set", values={"deny": ["127.0.0.2"]})
            if ends == "Reload failed":
                server.write_app("1 / 0")
                os.kill(max(int(row["pid"]) for row in server.call("workers")["rows"]), signal.SIGKILL)
            (tmp_path / "hold").unlink()
            server.wait_for_log(ends)
            server.wait_until_complete(1)
            with socket.create_connection(server.address, source_address=("127.0.0.2", 0), timeout=60) as client:
                assert client.recv(100) == b""


def test_set_while_a_reload_is_not_decided_holds_after_it(tmp_path: Path) -> None:
    for answers in (True, False):
        folder = tmp_path / str(answers)
        folder.mkdir()
        with Server(folder, "--timeout", "0") as server:
            (pid,) = server.serving_pids()
            os.kill(pid, signal.SIGSTOP)
            server.write_config("idle_timeout = 71\n")
            server.signal(signal.SIGHUP)
            server.wait_for_log("Reloading")
            server.call("set", values={"max_connections": 7})
            if answers:
                os.kill(pid, signal.SIGCONT)
            server.wait_for_log("Reloaded")
            assert (float(server.value_of("idle_timeout")), server.value_of("max_connections")) == (71, "7")
            if not answers:
                os.kill(pid, signal.SIGCONT)
            server.wait_until_complete(1)


def test_set_while_a_worker_drains_does_not_disturb_the_drain(tmp_path: Path) -> None:
    with Server(tmp_path, "--graceful-timeout", "5") as server, server.talking() as (client,):
        client.send(b"wait")
        (pid,) = server.serving_pids()
        os.kill(pid, signal.SIGTERM)
        server.wait_for_log("Draining 1 connections")
        began = time.monotonic()
        for rate in range(20):
            server.call("set", values={"max_message_rate": rate, "graceful_timeout": 600 + rate})
        wait_for(lambda: pid not in [row["pid"] for row in server.call("workers")["rows"]], "the drain is over")
        assert time.monotonic() - began < 30
        server.wait_until_complete(1)
        assert "Traceback" not in server.log


def test_set_is_refused_in_a_stop(tmp_path: Path) -> None:
    with Server(tmp_path, "--graceful-timeout", "3") as server, server.talking() as (client,):
        client.send(b"wait")
        wait_for(lambda: bool(server.call("connections", where="state=handling").get("rows")), "the handler runs")
        with ControlClient(server.control) as control:
            server.signal(signal.SIGTERM)
            server.wait_for_log("Stopping: draining")
            with pytest.raises(Problem, match="the server is stopping"):
                control.call("set", values={"idle_timeout": 71})


def test_a_worker_that_does_not_read_its_messages_is_replaced(tmp_path: Path) -> None:
    """The channel of a worker that is stopped is full after hundreds of messages: no value is lost."""
    with Server(tmp_path, "--timeout", "0") as server:
        (pid,) = server.serving_pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(400):
                server.call("set", values={"deny": ["127.0.0.2", *lists_of(number)]})
            wait_for(lambda: pid not in server.serving_pids() or len(server.serving_pids()) > 1, "it is replaced")
        finally:
            with contextlib.suppress(ProcessLookupError):  # it was killed: it did not drain in time
                os.kill(pid, signal.SIGCONT)
        server.wait_until_complete(1)
        assert server.serving_pids() != [pid]
        with socket.create_connection(server.address, source_address=("127.0.0.2", 0), timeout=60) as client:
            assert client.recv(100) == b""


def test_an_upgrade_starts_from_the_configuration(tmp_path: Path) -> None:
    with Server(tmp_path, config="idle_timeout = 71\n") as server:
        server.call("set", values={"idle_timeout": 72})
        server.signal(signal.SIGUSR2)
        server.wait_for_log("Worker ready", 2)
        with ControlClient(str(tmp_path / "ctl.2")) as new:
            rows = {row["name"]: row["value"] for row in new.call("settings")["rows"]}
            assert float(rows["idle_timeout"]) == 71
            pid = new.call("status")["pid"]
        os.kill(pid, signal.SIGTERM)
        server.wait_for_log("The new arbiter ended")


# Effects that only a whole server has


def test_the_log_level_and_the_format_of_the_access_log_change_at_once(tmp_path: Path) -> None:
    access = tmp_path / "access"
    with Server(tmp_path, "--access-logfile", str(access), workers=2) as server:
        server.call("set", values={"loglevel": "debug", "access_log_format": "closed %(r)s"})
        server.wait_for_log("Settings changed: loglevel, access_log_format", 2)
        with server.talking():
            pass
        wait_for(lambda: access.read_text() == "closed peer_eof\n", "the line has the other format")
        server.wait_for_log("DEBUG.* accepted ")
        server.call("set", values={"loglevel": "warning"})
        with server.talking(), server.talking():
            wait_for(lambda: server.call("status")["connections"]["open"] == 2, "both are counted")
        assert server.log.count("Settings changed") <= 4


def test_recycling_limits_hold_for_running_workers(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        before = server.serving_pids()
        server.call("set", values={"worker_max_age": 0.1})
        server.wait_for_log("Worker is to be recycled")
        server.call("set", values={"worker_max_age": 0})
        wait_for(lambda: bool(set(server.serving_pids()) - set(before)), "there is a new worker")


def test_block_warnings_can_be_turned_off_and_on(tmp_path: Path) -> None:
    blocking = APP.replace(
        'if line == b"wait":',
        'if line == b"block":\n        import time; time.sleep.__self__\n'
        "        until = time.monotonic() + 0.4\n        while time.monotonic() < until: pass\n"
        '    if line == b"wait":',
    )
    blocking = blocking.replace("time.sleep.__self__", "")
    with Server(tmp_path, "--block-warning", "0", app=blocking) as server, server.talking() as (client,):
        assert client.call(b"block") == b"block"
        server.call("set", values={"block_warning": 0.1})
        server.wait_for_log("Settings changed", 1)
        assert client.call(b"block") == b"block"
        server.wait_for_log("The event loop was blocked")
        server.call("set", values={"block_warning": 0})
        server.wait_for_log("Settings changed", 2)
        assert client.call(b"block") == b"block"
        assert is_served(client)
        assert server.log.count("The event loop was blocked") == 1


def test_the_next_drain_uses_the_other_spread_and_time(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.talking(3) as clients:
        server.call("set", values={"graceful_timeout": 20, "drain_spread": 1.5})
        clients[0].send(b"wait")
        wait_for(lambda: bool(server.call("connections", where="state=handling").get("rows")), "the handler runs")
        server.call("set", values={"graceful_timeout": 2})
        server.signal(signal.SIGTERM)
        server.wait_for_log(re.escape("Draining 3 connections over 1.5 s"))
        began = time.monotonic()
        assert server.wait() == 0
        assert 2.5 < time.monotonic() - began < 15
        assert "Killed 1 connections" in server.log


def test_the_worker_timeout_can_be_turned_on(tmp_path: Path) -> None:
    with Server(tmp_path, "--timeout", "0") as server:
        (pid,) = server.serving_pids()
        server.call("set", values={"timeout": 3})
        server.wait_for_log("Settings changed")
        time.sleep(1.5)  # a heartbeat with the deadline
        os.kill(pid, signal.SIGSTOP)
        server.wait_for_log("missed its heartbeat deadline")
        server.wait_until_complete(1)


def test_the_metrics_process_follows_the_log_level(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with Server(tmp_path, "--metrics-bind", f"unix:{tmp_path}/metrics") as server:
        server.call("set", values={"loglevel": "debug"})
        server.wait_for_log("Settings changed")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            wait_for(lambda: client.connect_ex(f"{tmp_path}/metrics") == 0, "it listens")
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
