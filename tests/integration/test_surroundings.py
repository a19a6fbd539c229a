"""The arbiter in its environment: daemons, log files, hooks, upgrades, systemd, sockets, users, containers."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from gserver.arbiter.worker_processes import EXIT_CANNOT_START
from gserver.client import Client
from gserver.codecs import JsonLines, Lines
from gserver.control.client import ControlClient
from tests.helpers.processes import PATIENCE_S, GserverProcess, is_alive, run_gserver, wait_for
from tests.helpers.scraping import metrics_address, metrics_pid, read_metrics
from tests.helpers.swarm import LINE_APP, Swarm
from tests.helpers.system_calls import CALLS_OF_TRACING, WORKER_CALLS_A_SECOND, traced, wait_until_quiet

SUM = {"type": "SUM", "a": 10, "b": 20}
is_root = os.getuid() == 0


def add_up(address: tuple[str, int] | str) -> int:
    with Client(address, JsonLines()) as client:
        result: int = client.call(SUM)["result"]
        return result


def test_the_environment_has_the_number_of_workers(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", workers=None, environment={"WEB_CONCURRENCY": "2"}) as server:
        server.wait_for_log("Worker ready", 2)
        assert len(server.workers()) == 2


# Daemon and pid file


def test_a_daemon_detaches_from_its_terminal_when_it_is_ready(tmp_path: Path) -> None:
    options = ("--daemon", "--pid", "pid", "--log-file", "log", "-b", "unix:socket", "-w", "2")
    ended = run_gserver("json", *options, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    tree = [daemon, *daemon.children()]
    try:
        assert len(tree) == 3
        assert add_up(str(tmp_path / "socket")) == 30
        assert os.getsid(daemon.pid) != os.getsid(0)
        for each in tree:
            assert not {
                f"/proc/{each.pid}/fd/{fd}" for fd in (0, 1, 2) if "pipe" in os.readlink(f"/proc/{each.pid}/fd/{fd}")
            }
    finally:
        daemon.terminate()
    wait_for(lambda: not any(is_alive(each) for each in tree), "the daemon and its workers have ended")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
    assert "Stopped" in (tmp_path / "log").read_text()


def test_a_daemon_that_cannot_start_prints_the_error_in_the_foreground(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    ended = run_gserver("broken:app", "--daemon", "-b", "unix:socket", cwd=tmp_path)

    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_the_pid_file_of_a_running_server_is_not_overwritten(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", "--pid", "gserver.pid") as server:
        ended = run_gserver("json", "-b", "127.0.0.1:0", "--pid", "gserver.pid", cwd=tmp_path)

        assert ended.returncode == 1
        assert f"belongs to process {server.process.pid}, which is running\n" in ended.stderr
        assert (tmp_path / "gserver.pid").read_text() == f"{server.process.pid}\n"
    assert not (tmp_path / "gserver.pid").exists()


# Logs


def test_logs_go_to_files_and_are_reopened_on_usr1(tmp_path: Path) -> None:
    options = ("--log-file", "errors", "--access-logfile", "access", "--capture-output")
    (tmp_path / "app.py").write_text(LINE_APP + "print('from the application', flush=True)\n")
    with GserverProcess(tmp_path, "app:app", *options, log=tmp_path / "errors") as server:
        with Client(server.address, Lines()) as client:
            client.recv()
            client.call(b"1")
        wait_for(lambda: "peer_eof" in (tmp_path / "access").read_text(), "the access log has a line")
        (tmp_path / "access").rename(tmp_path / "access.1")
        server.signal(signal.SIGUSR1)
        with Client(server.address, Lines()) as client:
            client.recv()

        def has_new_line() -> bool:
            with Client(server.address, Lines()) as another:
                another.recv()
            return (tmp_path / "access").exists() and "peer_eof" in (tmp_path / "access").read_text()

        wait_for(has_new_line, "the new access log has a line")
    assert re.match(r'127\.0\.0\.1:\d+ \[.+\] "peer_eof" 1 2 \d+ \d+\.\d+\n', (tmp_path / "access.1").read_text())
    assert "from the application" in (tmp_path / "errors").read_text()


def test_logconfig_dict_and_raw_env_and_proc_name(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(
        "raw_env = ['COLOUR=blue']\nproc_name = 'my-fleet'\n"
        "logconfig_dict = {'loggers': {'gserver.worker': {'level': 'ERROR'}}}\n"
    )
    (tmp_path / "app.py").write_text(
        "import os\nfrom gserver import Lines, Service\n"
        "app = Service(lambda line, conn: os.environ['COLOUR'].encode(), Lines)\n"
    )
    first = {
        "PWD": str(tmp_path)
    }  # setproctitle looks for the title at the first variable, and the server changes this one
    command = ["env", "-i", *(f"{name}={value}" for name, value in {**first, **os.environ, **first}.items())]
    command += [sys.executable, "-m", "gserver", "app:app", "-b", "127.0.0.1:0", "-w", "1"]
    with GserverProcess(tmp_path, command=command) as server, Client(server.address, Lines()) as client:
        assert client.call(b"?") == b"blue"
        assert "Booting worker" not in server.log
        titles = [Path(f"/proc/{each.pid}/cmdline").read_bytes().rstrip(b"\0") for each in server.tree()]
        assert titles == [b"gserver: arbiter [my-fleet]", b"gserver: worker [my-fleet]"]


# Hooks

HOOKS = """
import os
def say(name, *what):
    with open("hooks", "a") as file:
        file.write(" ".join([name, *map(str, what)]) + "\\n")
def on_starting(server): say("on_starting", server.pid == os.getpid())
def when_ready(server): say("when_ready")
def pre_fork(server, worker): say("pre_fork", worker.age)
def post_fork(server, worker): say("post_fork", worker.age, worker.pid == os.getpid())
def post_worker_init(worker): say("post_worker_init", worker.age)
def worker_int(worker): say("worker_int", worker.age)
def worker_exit(server, worker): say("worker_exit", worker.age)
def child_exit(server, worker): say("child_exit", worker.age)
def nworkers_changed(server, new_value, old_value): say("nworkers_changed", new_value, old_value)
def on_reload(server): say("on_reload")
def pre_exec(server): say("pre_exec")
def on_exit(server): say("on_exit")
def connection_open(worker, conn): say("connection_open", worker.age, conn.messages)
def connection_close(worker, conn, reason): say("connection_close", worker.age, conn.messages, reason.value)
"""


def test_hooks_are_called_in_order(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(HOOKS)
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "--reload-settle", "0.1") as server:
        # The worker may reply before the arbiter has called when_ready.
        wait_for(lambda: "when_ready" in (tmp_path / "hooks").read_text(), "the arbiter's hook")
        with Client(server.address, Lines()) as client:
            client.recv()
            client.call(b"1")
        wait_for(lambda: "connection_close" in (tmp_path / "hooks").read_text(), "the connection is closed")
        server.signal(signal.SIGTTIN)
        server.wait_for_log("Worker ready", 2)
        server.signal(signal.SIGTTOU)
        server.wait_for_log("Worker exited")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        server.wait_for_log("Worker exited", 2)
    said = (tmp_path / "hooks").read_text().splitlines()

    assert said[:5] == ["on_starting True", "pre_fork 1", "post_fork 1 True", "post_worker_init 1", "when_ready"]
    assert said[5:7] == ["connection_open 1 0", "connection_close 1 1 peer_eof"]
    assert said[7:13] == [
        *("nworkers_changed 2 1", "pre_fork 2", "post_fork 2 True", "post_worker_init 2"),
        *("nworkers_changed 1 2", "worker_exit 1"),
    ]
    assert said[13:] == [
        *("child_exit 1", "on_reload", "pre_fork 3", "post_fork 3 True", "post_worker_init 3"),
        *("worker_exit 2", "child_exit 2", "worker_exit 3", "child_exit 3", "on_exit"),
    ]


@pytest.mark.parametrize("name", ["when_ready(server)", "pre_fork(server, worker)", "connection_open(worker, conn)"])
def test_a_hook_that_raises_is_logged_with_its_name_and_has_no_other_effect(tmp_path: Path, name: str) -> None:
    (tmp_path / "gserver.conf.py").write_text(f"def {name}:\n    1 / 0\n")
    with GserverProcess(tmp_path, "json") as server:
        assert add_up(server.address) == 30
        server.wait_for_log(f"hook {name.partition('(')[0]} failed")


@pytest.mark.parametrize(
    ("name", "status"), [("on_starting(server)", 1), ("post_worker_init(worker)", EXIT_CANNOT_START)]
)
def test_a_hook_that_raises_at_the_start_fails_it(tmp_path: Path, name: str, status: int) -> None:
    (tmp_path / "gserver.conf.py").write_text(f"def {name}:\n    1 / 0\n")
    ended = run_gserver("json", "-b", "127.0.0.1:0", cwd=tmp_path)

    assert ended.returncode == status
    assert f"hook {name.partition('(')[0]} failed: ZeroDivisionError: division by zero (" in ended.stderr


# Upgrade


def test_usr2_starts_a_new_arbiter_that_takes_over_after_term_to_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "-b", "unix:socket", "--pid", "gserver.pid") as server:
        old = server.arbiter
        with Swarm(server.address, long=8, short=2) as swarm:
            old.send_signal(signal.SIGUSR2)
            wait_for(lambda: (tmp_path / "gserver.pid.2").exists(), "the new arbiter has its pid file")
            server.wait_for_log("Worker ready", 2)
            assert is_alive(old)
            old.send_signal(signal.SIGTERM)
            wait_for(lambda: server.arbiter.pid != old.pid, "the new arbiter has the pid file")
            server.process.wait(PATIENCE_S)
            verified = swarm.tally.verified
            wait_for(lambda: swarm.tally.verified > verified + 100, "exchanges go on")
        assert swarm.tally.faults == []
        with Client(str(tmp_path / "socket"), Lines()) as client:
            assert int(client.recv()) in server.serving_pids()
        new = server.arbiter
        new.terminate()
        wait_for(lambda: not is_alive(new), "the new arbiter has ended")
    assert not (tmp_path / "socket").exists()
    assert not (tmp_path / "gserver.pid").exists()


def test_a_new_arbiter_that_fails_does_not_affect_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LINE_APP)
    with GserverProcess(tmp_path, "app:app", "-b", "unix:socket", "--pid", "gserver.pid") as server:
        (tmp_path / "app.py").write_text("1 / 0")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("The new arbiter ended with status 3")
        with Client(str(tmp_path / "socket"), Lines()) as client:
            assert int(client.recv()) in server.serving_pids()
        server.signal(signal.SIGUSR2)  # it can be tried again
        server.wait_for_log("The new arbiter ended with status 3", 2)


# Development


@pytest.mark.parametrize("engine", ["poll", "watchfiles"])
def test_reload_on_change_continues_after_a_syntax_error(tmp_path: Path, engine: str) -> None:
    app = tmp_path / "app.py"
    app.write_text("app = (")
    with GserverProcess(
        tmp_path, "app:app", "--reload", "--reload-engine", engine, ready="waiting for a change"
    ) as server:
        app.write_text(LINE_APP)
        server.wait_for_log("Worker ready")
        with Client(server.address, Lines()) as client:
            first = int(client.recv())
            app.write_text("app = )")
            server.wait_for_log("Reload failed")
            assert client.call(b"1") == b"%d 1" % first
            (tmp_path / "app.py").write_text(LINE_APP + "# mended\n")
            server.wait_for_log("Reloaded", 2)
        with Client(server.address, Lines()) as client:
            assert int(client.recv()) != first


# systemd


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate")
def test_a_socket_that_systemd_passes_is_served(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    activate = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", sys.executable, "-m", "gserver", "json"]
    with GserverProcess(tmp_path, command=activate, ready="Listening on") as server:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(b'{"type":"SUM","a":10,"b":20}\n')
            assert client.makefile("rb").readline() == b'{"status":"OK","result":30}\n'
        assert f"Listening at: 127.0.0.1:{port}" in server.log


def test_systemd_is_notified_of_readiness_reload_and_stop(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with GserverProcess(tmp_path, "json", "--reload-settle", "0.1", workers=2, environment=environment) as server:
            assert next_message(manager, b"READY=1").endswith(b"STATUS=2 workers")
            assert server.log.count("Worker ready") == 2
            assert next_message(manager, b"WATCHDOG=1") == b"WATCHDOG=1"
            server.signal(signal.SIGHUP)
            assert b"MONOTONIC_USEC=" in next_message(manager, b"RELOADING=1")
            assert next_message(manager, b"READY=1").endswith(b"STATUS=reloaded")
        assert next_message(manager, b"STOPPING=1").startswith(b"STOPPING=1")


def next_message(manager: socket.socket, what: bytes) -> bytes:
    """Return the next message that contains `what`; all before it must be heartbeats."""
    for _ in range(100):
        message = manager.recv(4096)
        if what in message:
            return message
        assert message == b"WATCHDOG=1", message
    raise AssertionError(f"no message with {what!r}")


# Sockets and users


def test_a_unix_socket_has_the_configured_mode(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", bind="unix:socket,mode=600"):
        path = tmp_path / "socket"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert add_up(str(path)) == 30


def test_an_inherited_descriptor_is_served(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        GserverProcess(tmp_path, "json", bind=f"fd://{listener.fileno()}", pass_fds=(listener.fileno(),)),
    ):
        assert add_up(listener.getsockname()) == 30


def test_a_dual_stack_socket_accepts_both_families(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", bind="[::]:0") as server:
        port = server.address[1]
        assert add_up(("127.0.0.1", port)) == 30
        assert add_up(("::1", port)) == 30


def other_users_can_run_python() -> bool:
    """Return whether other users can read this interpreter and the packages."""
    folders = [Path(os.__file__).parent, Path(psutil.__file__).parent, Path(__file__).parent]
    return all(parent.stat().st_mode & stat.S_IXOTH for folder in folders for parent in [folder, *folder.parents])


@pytest.mark.skipif(not is_root, reason="only root can change the user")
@pytest.mark.skipif(not other_users_can_run_python(), reason="another user cannot read this interpreter")
def test_workers_run_as_the_configured_user() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "app.py").write_text(
            "import os\nfrom gserver import Lines, Service\n"
            "app = Service(lambda line, conn: b'%d %d' % (os.getuid(), os.getgid()), Lines)\n"
        )
        nobody = pwd.getpwnam("nobody")
        with (
            GserverProcess(folder, "app:app", "-u", "nobody", "-g", "nogroup", "-b", "unix:socket") as server,
            Client(server.address, Lines()) as client,
        ):
            assert client.call(b"?") == b"%d %d" % (nobody.pw_uid, nobody.pw_gid)
            assert server.arbiter.uids().real == 0
            assert (folder / "socket").stat().st_uid == nobody.pw_uid


@pytest.mark.skipif(not is_root or not shutil.which("unshare"), reason="needs root and unshare")
def test_as_process_1_it_reaps_orphans_and_stops_on_term(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, subprocess\nfrom gserver import Lines, Service\n"
        "def answer(line, conn):\n"
        "    subprocess.Popen(['sh', '-c', 'sleep 0.1 & exit 3']).wait()\n"
        "    return b'%d' % os.getpid()\n"
        "app = Service(answer, Lines)\n"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command += [sys.executable, "-m", "gserver", "app:app", "-b", "127.0.0.1:0"]
    with GserverProcess(tmp_path, command=command) as server:
        (arbiter,) = psutil.Process(server.process.pid).children()
        with Client(server.address, Lines()) as client:
            pids = {client.call(b"?") for _ in range(5)}
        wait_for(lambda: len(arbiter.children()) == 1, "the orphans are reaped, and one worker is left")
        assert len(pids) == 1
        arbiter.terminate()
        assert server.process.wait(PATIENCE_S) == 0
    assert "Worker exited with status 3" not in server.log


#: A connection of its own, a page of a few KB, and the memory and the files of each process.
CALLS_A_SCRAPE = 60
OPERATED = ("--control-socket", "ctl", "--metrics-bind", "127.0.0.1:0")


@pytest.mark.parametrize("scrapes", [None, 0, 4], ids=["plain", "operated", "scraped"])
def test_an_idle_server_makes_few_system_calls(tmp_path: Path, scrapes: int | None) -> None:
    """A control socket and metrics cost the arbiter and the workers nothing, whether they are used or not."""
    if scrapes is not None:
        pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")
    flags = ("--no-control-socket",) if scrapes is None else OPERATED
    with GserverProcess(tmp_path, "json", *flags, workers=2) as server, ExitStack() as stack:
        metrics = []
        if scrapes is not None:
            server.wait_for_log("Metrics process ready")
            metrics.append(metrics_pid(server))
            stack.enter_context(ControlClient(str(tmp_path / "ctl"))).call("status")  # it stays connected
        arbiter, workers = server.process.pid, server.serving_pids()
        for pid in (arbiter, *metrics):
            wait_until_quiet(pid)
        with traced([arbiter, *workers, *metrics]) as calls:
            began = time.time()
            for _ in range(scrapes or 0):
                read_metrics(metrics_address(server))
                time.sleep(1)
            time.sleep(5 - (scrapes or 0))
            seconds = time.time() - began

    assert len(workers) == 2
    assert len(calls[arbiter]) <= CALLS_OF_TRACING
    for pid in workers:
        lasted = max(seconds, calls[pid][-1] - calls[pid][0])
        assert lasted - 2 <= len(calls[pid]) <= WORKER_CALLS_A_SECOND * (lasted + 2)
    for pid in metrics:
        assert len(calls[pid]) <= CALLS_A_SCRAPE * (scrapes or 0) + CALLS_OF_TRACING
