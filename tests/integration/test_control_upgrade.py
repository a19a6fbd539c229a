"""gserverctl upgrade with real servers: under load, each way in which the new one can fail, ends of each of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from gserver.control.client import ControlClient
from tests.helpers.processes import PATIENCE_S, GserverProcess, is_alive, is_running, wait_for
from tests.helpers.scraping import request
from tests.helpers.service_manager import ServiceManager, missing_for_a_manager
from tests.helpers.swarm import LINE_APP, Swarm
from tests.integration.test_control import (
    AS_USER,
    COMMAND,
    Finished,
    as_user,
    assert_one_line,
    needs_user_namespace,
    run,
)

pytestmark = pytest.mark.long

#: Everything of which an upgrade has two for some time.
FILES = ("-p", "gserver.pid", "--stats-socket", "stats")
UPGRADED = r"^upgraded: gserver \S+ with pid (\d+) serves, gserver \S+ with pid (\d+) has stopped\n$"
HANGING_APP = "import time\ntime.sleep(3600)\n"
#: A handler that takes as long as the client wants.
SLOW_APP = """
import os
import gevent
from gserver import Lines, Service

def answer(line, conn):
    if line == b"slow":
        conn.send(b"it begins")
        gevent.sleep(2)
    elif line == b"wait":
        conn.send(b"it begins")
        while not os.path.exists("go"):
            gevent.sleep(0.02)
    return line

app = Service(answer, Lines)
"""


class Upgradable(GserverProcess):
    """A server of LINE_APP with its control socket at `ctl`. Whichever arbiter runs at the end is stopped."""

    def __init__(self, folder: Path, *arguments: str, app: str = LINE_APP, **options: Any) -> None:
        self.folder = folder
        self.path = str(folder / "ctl")
        (folder / "app.py").write_text(app)
        given = ("app:app", "--control-socket", self.path, *FILES, "--reload-settle", "0", *arguments)
        super().__init__(folder, *given, **{"workers": 2, **options})

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Stop the new arbiter too: it is no child of this process."""
        try:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                pid = int((self.folder / "gserver.pid").read_text())
                if pid != self.process.pid:
                    os.kill(pid, signal.SIGTERM)
                    wait_for(lambda: not is_running(pid), "the new arbiter has ended")
        finally:
            super().__exit__(*exception)

    def ctl(self, *arguments: str) -> Finished:
        return run("-s", self.path, *arguments)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start gserverctl."""
        command = [*COMMAND, "-s", self.path, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(self, command: str) -> dict[str, Any]:
        with ControlClient(self.path) as client:
            return client.call(command)

    def hang(self) -> None:
        """The application cannot be imported in any finite time."""
        (self.folder / "app.py").write_text(HANGING_APP)

    @property
    def new_pid(self) -> int:
        """The new arbiter of an upgrade that was begun."""
        wait_for(lambda: self.call("status")["upgrade"] is not None, "an upgrade has begun")
        return int(self.call("status")["upgrade"]["pid"])

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name.endswith(".2"))


def upgraded(finished: Finished) -> tuple[int, int]:
    """The pids of the new and of the old server, after an upgrade that succeeded."""
    found = re.match(UPGRADED, finished.stdout)
    assert found, finished
    assert (finished.returncode, finished.stderr) == (0, ""), finished
    return int(found[1]), int(found[2])


def assert_the_old_one_goes_on(server: Upgradable, tree: set[int]) -> None:
    """The new server has left nothing, and another upgrade succeeds."""
    assert server.process.poll() is None
    state = server.call("status")["upgrade"]
    assert (state["is_running"], state["is_ready"]) == (False, False)
    wait_for(lambda: {one.pid for one in server.tree()} == tree, "no process of the new server is left")
    assert server.leftovers() == []
    assert int((server.folder / "gserver.pid").read_text()) == server.process.pid
    with server.connect() as client:
        assert int(client.makefile("rb").readline()) in tree
    (server.folder / "app.py").write_text(LINE_APP)
    assert upgraded(server.ctl("upgrade"))[1] == server.process.pid


def pids(server: Upgradable) -> set[int]:
    return {one.pid for one in server.tree()}


@pytest.mark.parametrize(
    ("options", "bind"),
    [
        ((), "127.0.0.1:0"),
        (("--reuse-port",), "127.0.0.1:0"),
        (("--preload", "--metrics-bind", "unix:metrics"), "127.0.0.1:0"),
    ],
    ids=["plain", "reuse-port", "preload-metrics"],
)
def test_no_exchange_is_lost(tmp_path: Path, options: tuple[str, ...], bind: str) -> None:
    with Upgradable(tmp_path, *options, bind=bind) as server:
        with Swarm(server.address) as swarm:
            wait_for(lambda: swarm.tally.verified > 200, "exchanges are made")
            new, old = upgraded(server.ctl("upgrade"))
            verified = swarm.tally.verified
            wait_for(lambda: swarm.tally.verified > verified + 200, "exchanges go on")
        assert swarm.tally.faults == []
        assert old == server.process.pid
        assert server.wait() == 0
        assert server.call("status")["pid"] == new
        assert int((tmp_path / "gserver.pid").read_text()) == new
        wait_for(lambda: server.leftovers() == [], "the new server has taken over every path")
        if "--metrics-bind" in options:
            assert request(str(tmp_path / "metrics"), "/readyz").status == 200
        assert server.ctl("stop").returncode == 0
        handled = sum(map(int, re.findall(r"Totals: messages (\d+)", server.log)))
        assert handled == swarm.tally.verified
    assert server.log.count("Traceback") == 0
    assert {path.name for path in tmp_path.iterdir()} & {"ctl", "stats", "gserver.pid", "metrics"} == set()


def test_a_unix_socket_is_served_by_the_new_one(tmp_path: Path) -> None:
    with Upgradable(tmp_path, bind=f"unix:{tmp_path}/socket") as server:
        upgraded(server.ctl("upgrade"))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(tmp_path / "socket"))
            assert int(client.makefile("rb").readline()) not in pids(server)


def test_two_upgrades_in_a_row_and_as_json(tmp_path: Path) -> None:
    with Upgradable(tmp_path) as server:
        second, first = upgraded(server.ctl("upgrade"))
        finished = server.ctl("upgrade", "--json")
        result = json.loads(finished.stdout)

        assert first == server.process.pid
        assert (finished.returncode, result["old_pid"]) == (0, second)
        assert server.call("status")["pid"] == result["pid"]
        assert server.call("status")["upgrade"] is None


def test_a_request_that_is_being_handled_is_answered_by_the_old_one(tmp_path: Path) -> None:
    with Upgradable(tmp_path, app=SLOW_APP) as server, server.connect() as client:
        lines = client.makefile("rb")
        client.sendall(b"slow\n")
        assert lines.readline() == b"it begins\n"
        upgraded(server.ctl("upgrade"))
        assert lines.readline() == b"slow\n"


# The new one fails


def test_a_config_file_that_is_wrong_is_the_reason(tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("graceful_timeout = 5\n")
    with Upgradable(tmp_path, "-c", "conf.py") as server:
        tree = pids(server)
        config.write_text("graceful_timeout = 'never'\n")
        assert_one_line(
            server.ctl("upgrade"),
            1,
            "^gserverctl: the new server could not start, the old one goes on: .*graceful_timeout.*never",
        )
        config.write_text("1 / 0\n")
        assert_one_line(server.ctl("upgrade"), 1, "could not start, the old one goes on: .*ZeroDivisionError")
        config.unlink()
        assert_one_line(server.ctl("upgrade"), 1, "could not start, the old one goes on: .*conf.py")
        config.write_text("")
        assert_the_old_one_goes_on(server, tree)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_an_application_that_cannot_be_imported_is_the_reason(tmp_path: Path, options: tuple[str, ...]) -> None:
    with Upgradable(tmp_path, *options) as server:
        tree = pids(server)
        (tmp_path / "app.py").write_text("import nothing_of_this_name\n")
        assert_one_line(server.ctl("upgrade"), 1, "the old one goes on: no worker could start: .*nothing_of_this_name")
        assert "nothing_of_this_name" in server.log
        assert_the_old_one_goes_on(server, tree)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_an_application_that_hangs_is_stopped_after_the_timeout(tmp_path: Path, options: tuple[str, ...]) -> None:
    with Upgradable(tmp_path, *options) as server:
        tree = pids(server)
        server.hang()
        assert_one_line(
            server.ctl("upgrade", "--timeout", "2"),
            1,
            "^gserverctl: the new server was not ready within 2 s and was stopped, the old one goes on: ",
        )
        assert_the_old_one_goes_on(server, tree)


def test_a_config_file_that_hangs_is_stopped_after_the_timeout(tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("")
    with Upgradable(tmp_path, "-c", "conf.py") as server:
        tree = pids(server)
        config.write_text(HANGING_APP)
        assert_one_line(
            server.ctl("upgrade", "--timeout", "1"),
            1,
            "was stopped, the old one goes on: it has reported nothing: it hangs before it listens, or its",
        )
        config.write_text("")
        assert_the_old_one_goes_on(server, tree)


def test_a_new_server_that_does_not_react_is_killed(tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("")
    with Upgradable(tmp_path, "-c", "conf.py") as server:
        config.write_text(
            "import time\ndef pre_fork(server, worker):\n"
            "    open('hangs', 'w').close()\n    while True:\n        time.sleep(1)\n"
        )
        client = server.begin("upgrade")
        wait_for((tmp_path / "hangs").exists, "the hook of the new one hangs")
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=PATIENCE_S)

        state = server.call("status")["upgrade"]
        assert (state["is_running"], state["failed_because"]) == (False, "it ended with status 137")
        (tmp_path / "conf.py").write_text("")
        wait_for(lambda: len(server.serving_pids()) == 2, "only the old workers are left")
        upgraded(server.ctl("upgrade"))  # over the paths that the killed one has left
        assert server.leftovers() == []


def test_a_new_server_that_is_killed_is_the_reason(tmp_path: Path) -> None:
    with Upgradable(tmp_path) as server:
        server.hang()
        client = server.begin("upgrade")
        os.kill(server.new_pid, signal.SIGKILL)
        _, errors = client.communicate(timeout=PATIENCE_S)
        assert (client.returncode, errors) == (
            1,
            "gserverctl: the new server could not start, the old one goes on: it ended with status 137\n",
        )


# One at a time


def test_an_upgrade_while_one_runs_is_refused(tmp_path: Path) -> None:
    with Upgradable(tmp_path) as server:
        server.hang()
        first = server.begin("upgrade", "--timeout", "100")
        new = server.new_pid
        wait_for(Path(f"{server.path}.2").exists, "the new one listens")
        assert_one_line(
            server.ctl("upgrade"),
            1,
            f"^gserverctl: an upgrade is under way: a new arbiter runs with pid {new}; "
            "stop this server to finish, or that one to give up$",
        )
        assert_one_line(run("-s", f"{server.path}.2", "upgrade"), 1, "this server was started by one, and the old")
        os.kill(new, signal.SIGKILL)
        assert first.wait(PATIENCE_S) == 1
        first.communicate()


def test_an_upgrade_while_the_server_reloads_succeeds(tmp_path: Path) -> None:
    with Upgradable(tmp_path) as server, Swarm(server.address) as swarm:
        server.signal(signal.SIGHUP)
        upgraded(server.ctl("upgrade"))
        verified = swarm.tally.verified
        wait_for(lambda: swarm.tally.verified > verified + 100, "exchanges go on")
        assert swarm.tally.faults == []


@pytest.mark.parametrize("delay", ["0", "30"])
def test_an_upgrade_while_the_server_stops_is_refused(tmp_path: Path, delay: str) -> None:
    with Upgradable(tmp_path, "--shutdown-delay", delay, app=SLOW_APP) as server, server.connect() as client:
        lines = client.makefile("rb")
        client.sendall(b"slow\n")
        assert lines.readline() == b"it begins\n"
        server.signal(signal.SIGTERM)
        wait_for(lambda: "Stopping" in server.log, "it stops")
        assert_one_line(server.ctl("upgrade"), 1, "^gserverctl: the server is (about to stop|stopping)$")
        server.signal(signal.SIGINT)


def test_a_server_that_drains_for_the_new_one_does_not_cancel_it(tmp_path: Path) -> None:
    with Upgradable(tmp_path, app=SLOW_APP) as server, server.connect() as client, ControlClient(server.path) as old:
        lines = client.makefile("rb")
        client.sendall(b"wait\n")
        assert lines.readline() == b"it begins\n"
        upgrading = server.begin("upgrade")
        wait_for(lambda: old.call("status")["state"] == "stopping", "the old one drains")
        again = run("-s", server.path, "status", "--json")
        assert json.loads(again.stdout)["pid"] != server.process.pid
        with pytest.raises(Exception, match="no upgrade is under way that could be cancelled"):
            old.call("cancel_upgrade")
        (tmp_path / "go").touch()
        assert lines.readline() == b"wait\n"
        assert upgrading.wait(PATIENCE_S) == 0
        upgrading.communicate()


# One of the three ends meanwhile


def test_ctrl_c_stops_the_new_one(tmp_path: Path) -> None:
    with Upgradable(tmp_path) as server:
        tree = pids(server)
        server.hang()
        client = server.begin("upgrade")
        assert is_running(server.new_pid)
        client.send_signal(signal.SIGINT)
        output, errors = client.communicate(timeout=PATIENCE_S)
        assert (client.returncode, output, errors) == (130, "", "")
        assert_the_old_one_goes_on(server, tree)


def test_without_gserverctl_both_go_on_and_a_stop_finishes_it(tmp_path: Path) -> None:
    with Upgradable(tmp_path) as server:
        client = server.begin("upgrade")
        new = server.new_pid
        client.kill()
        client.communicate()
        wait_for(lambda: server.call("status")["upgrade"]["is_ready"], "the new one is ready")
        assert_one_line(server.ctl("upgrade"), 1, f"an upgrade is under way: a new arbiter runs with pid {new}; ")
        assert server.ctl("stop").returncode == 0
        assert server.call("status")["pid"] == new


def test_when_the_old_one_is_killed_the_new_one_goes_on(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    app = f"import os, time\nwhile os.path.exists({str(gate)!r}):\n    time.sleep(0.01)\n{LINE_APP}"
    with Upgradable(tmp_path, app=app) as server:
        gate.touch()
        client = server.begin("upgrade")
        new = server.new_pid
        server.process.kill()
        _, errors = client.communicate(timeout=PATIENCE_S)
        assert client.returncode == 3
        assert re.search(rf"has ended, before the new server with pid {new} was ready$", errors)
        gate.unlink()
        wait_for(lambda: (tmp_path / "gserver.pid").read_text() == f"{new}\n", "the new one has taken over")
        wait_for(lambda: server.leftovers() == [], "it has taken over all paths")
        wait_for(lambda: server.call("status")["ready"], "the new one serves")
        assert server.call("status")["pid"] == new


# Where the control socket is


@needs_user_namespace
def test_the_default_path(tmp_path: Path) -> None:
    command = [*AS_USER, sys.executable, "-P", "-m", "gserver", "echo", "-b", "127.0.0.1:0", "-p", "gserver.pid"]
    with GserverProcess(tmp_path, command=command, environment={"XDG_RUNTIME_DIR": str(tmp_path)}) as server:
        new, old = upgraded(as_user(tmp_path, "upgrade"))
        assert old == server.process.pid
        assert [path.name for path in (tmp_path / "gserver").iterdir()] == [f"{new}.ctl"]
        assert as_user(tmp_path, "stop").returncode == 0
        wait_for(lambda: not is_running(new), "it has ended")


@pytest.mark.parametrize("control", ["control_socket = 'other'", "control_socket_disable = True"])
def test_the_new_one_may_have_its_control_socket_elsewhere_or_none(tmp_path: Path, control: str) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    config = tmp_path / "conf.py"
    config.write_text("control_socket = 'ctl'\n")
    with GserverProcess(tmp_path, "app:app", "-c", "conf.py", "-p", "gserver.pid") as server:
        config.write_text(f"{control}\n")
        new, _ = upgraded(run("-s", str(tmp_path / "ctl"), "upgrade"))
        assert (tmp_path / "other").exists() == ("other" in control)
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not is_running(new), "it has ended")
        assert server.wait() == 0


def test_the_release_to_which_a_link_leads_now_is_started(tmp_path: Path) -> None:
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        app = f"from gserver import Lines, Service\napp = Service(lambda line, conn: b'{release}', Lines)\n"
        (tmp_path / release / "app.py").write_text(app)
    (tmp_path / "current").symlink_to("one")
    options = ("--chdir", "current", "--control-socket", "ctl", "-p", f"{tmp_path}/gserver.pid")
    with GserverProcess(tmp_path, "app:app", *options) as server:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").replace(tmp_path / "current")
        new, _ = upgraded(run("-s", str(tmp_path / "one" / "ctl"), "upgrade"))
        with server.connect() as client:
            client.sendall(b"?\n")
            assert client.makefile("rb").readline() == b"two\n"
        assert run("-s", str(tmp_path / "current" / "ctl"), "stop").returncode == 0
        wait_for(lambda: not is_running(new), "it has ended")


# In the background, and under systemd


def test_a_daemon_is_upgraded(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    log = tmp_path / "log"
    options = ("--daemon", "--log-file", "log", "--control-socket", "ctl", *FILES)
    with GserverProcess(tmp_path, "app:app", *options, log=log) as server:
        assert server.wait() == 0
        old = server.arbiter.pid
        new, stopped = upgraded(run("-s", str(tmp_path / "ctl"), "upgrade"))
        assert (stopped, server.arbiter.pid) == (old, new)
        with server.connect() as client:
            assert int(client.makefile("rb").readline()) in server.serving_pids()
        (tmp_path / "app.py").write_text("import nothing_of_this_name\n")
        assert_one_line(run("-s", str(tmp_path / "ctl"), "upgrade"), 1, "no worker could start: .*nothing_of_this_name")
        assert run("-s", str(tmp_path / "ctl"), "stop").returncode == 0
        wait_for(lambda: not is_alive(psutil.Process(new)) if psutil.pid_exists(new) else True, "it has ended")


UNIT = """
[Service]
Type=notify
KillMode=mixed
Restart=on-failure
WatchdogSec=5
TimeoutStopSec=20
WorkingDirectory={folder}
ExecStart={python} -m gserver app:app -b unix:{folder}/socket --control-socket {folder}/ctl
StandardError=append:{folder}/log
"""


@pytest.fixture
def systemd() -> Iterator[ServiceManager]:
    missing = missing_for_a_manager()
    if missing is not None:
        pytest.skip(missing)
    with ServiceManager() as manager:
        yield manager


def test_systemd_follows_an_upgrade(systemd: ServiceManager) -> None:
    folder = systemd.folder
    (folder / "app.py").write_text(LINE_APP)
    systemd.install("gserver.service", UNIT.format(folder=folder, python=sys.executable))
    systemd.call("start", "gserver.service")
    first = systemd.show("gserver.service", "MainPID")

    def ctl(*arguments: str) -> Finished:
        return systemd.inside(*COMMAND, "-s", f"{folder}/ctl", *arguments)

    new, old = upgraded(ctl("upgrade"))
    assert str(old) == first
    wait_for(lambda: systemd.show("gserver.service", "MainPID") == str(new), "systemd follows")
    assert systemd.show("gserver.service", "ActiveState") == "active"
    (folder / "app.py").write_text("import nothing_of_this_name\n")
    assert_one_line(ctl("upgrade"), 1, "no worker could start: .*nothing_of_this_name")
    assert systemd.show("gserver.service", "MainPID") == str(new)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(folder / "socket"))
        assert client.makefile("rb").readline()
    systemd.call("stop", "gserver.service")

    state = [systemd.show("gserver.service", name) for name in ("ActiveState", "Result", "NRestarts")]
    assert state == ["inactive", "success", "0"]
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(("ctl", "sock"))) == []
