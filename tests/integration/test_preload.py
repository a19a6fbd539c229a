"""preload_app: the server survives the end of a preload process at any moment, or recovers by itself."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from gserver.arbiter.channel import BORN, FORK, Channel
from gserver.arbiter.preload import PreloadProcess, PreloadProcesses, PreloadUnavailable
from gserver.client import Client
from gserver.codecs import Lines
from gserver.config.settings import Settings
from tests.helpers.processes import GserverProcess, children_of, is_alive, run_gserver, wait_for

APP = """
import os
from gserver import Lines, Service
app = Service(lambda line, conn: b"%d" % os.getpid(), Lines)
"""
HANGS = "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n"
#: Shortens the time in which the preload process must fork a worker.
IMPATIENT = "from gserver.arbiter import supervision\nsupervision.PRELOAD_FORK_S = 0.5\n"


def start(folder: Path, *arguments: str, workers: int = 1) -> GserverProcess:
    if not (folder / "app.py").exists():
        (folder / "app.py").write_text(APP)
    settle = ("--reload-settle", "0.1", "--pid", "gserver.pid", "--stats-socket", "stats")
    return GserverProcess(folder, "app:app", "--preload", *settle, *arguments, workers=workers)


def write(folder: Path, text: str) -> None:
    (folder / "app.py").write_text(text)
    for cached in folder.glob("__pycache__/app.*"):
        cached.unlink()


def preload_pids(server: GserverProcess) -> list[int]:
    return [int(pid) for pid in re.findall(r"Preloading \(pid: (\d+)\)", server.log)]


def worker_of(server: GserverProcess) -> int:
    with Client(server.address, Lines()) as client:
        return int(client.call(b"?"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_preload_process_that_is_killed_is_replaced_when_it_is_needed(tmp_path: Path, number: int) -> None:
    with start(tmp_path) as server:
        (preload_process,) = preload_pids(server)
        os.kill(preload_process, number)
        server.wait_for_log(
            rf"Preload process ended with signal {signal.Signals(number).name} \(pid: {preload_process}\)"
        )
        server.kill_worker(worker_of(server))

        assert worker_of(server) in children_of(server.process.pid)
        assert len(preload_pids(server)) == 2
        assert "Cannot fork" not in server.log
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_after_a_kill_of_everything_one_new_preload_process_forks_all_workers(
    tmp_path: Path,
) -> None:
    with start(tmp_path, workers=3) as server:
        for pid in [*preload_pids(server), *server.serving_pids()]:
            os.kill(pid, signal.SIGKILL)
        server.wait_for_log("Worker ready", 6)

        assert len(preload_pids(server)) == 2
        assert "Cannot fork" not in server.log


def test_a_preload_process_killed_while_it_imports_fails_its_reload_and_the_next_one_works(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        before = worker_of(server)
        write(tmp_path, HANGS)
        server.signal(signal.SIGHUP)
        server.wait_for_log("importing")
        os.kill(preload_pids(server)[1], signal.SIGKILL)
        server.wait_for_log("Reload failed")
        assert worker_of(server) == before
        write(tmp_path, APP)

        assert run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path).returncode == 0

        assert worker_of(server) != before
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_a_stopped_preload_process_holds_up_nobody_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(IMPATIENT)
    with start(tmp_path) as server:
        (preload_process,) = preload_pids(server)
        os.kill(preload_process, signal.SIGSTOP)
        os.kill(worker_of(server), signal.SIGKILL)
        server.wait_for_log("exited with signal SIGKILL")
        stats = run_gserver("--stats", "stats", cwd=tmp_path)  # the arbiter does not wait for the preload process
        server.wait_for_log("The preload process does not fork workers, killing it")
        server.wait_for_log("Worker ready", 2)

        assert '"pid"' in stats.stdout
        assert worker_of(server) in children_of(server.process.pid)
        assert "Traceback" not in server.log


def test_a_request_ends_with_the_preload_process_that_has_not_carried_it_out(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        (preload_process,) = preload_pids(server)
        os.kill(preload_process, signal.SIGSTOP)
        os.kill(worker_of(server), signal.SIGKILL)
        server.wait_for_log("exited with signal SIGKILL")
        os.kill(preload_process, signal.SIGKILL)
        server.wait_for_log("Worker ready", 2)

        assert worker_of(server) in children_of(server.process.pid)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_worker_that_is_forked_too_late_does_not_stay(tmp_path: Path) -> None:
    """The preload process continues after the request was given up, and before it is killed."""
    (tmp_path / "gserver.conf.py").write_text(
        "from gserver.arbiter import supervision\nsupervision.PRELOAD_FORK_S = 3600\n"
    )
    with start(tmp_path) as server:
        (preload_process,) = preload_pids(server)
        os.kill(preload_process, signal.SIGSTOP)
        server.signal(signal.SIGTTIN)
        wait_for(lambda: "Workers: 2 instead of 1" in server.log, "a second worker is requested")
        server.signal(signal.SIGTTOU)
        wait_for(lambda: "Workers: 1 instead of 2" in server.log, "it is needed no more")
        os.kill(preload_process, signal.SIGCONT)
        known = {preload_process, worker_of(server)}
        wait_for(lambda: children_of(server.process.pid) == known, "the worker that came too late has ended")

        assert server.log.count("Booting worker") == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_stop_waits_for_no_preload_process(tmp_path: Path, stop: int) -> None:
    with start(tmp_path) as server:
        (preload_process,) = preload_pids(server)
        os.kill(preload_process, signal.SIGSTOP)
        os.kill(worker_of(server), signal.SIGKILL)
        server.wait_for_log("exited with signal SIGKILL")
        server.signal(stop)

        assert server.wait() == 0
        assert not psutil.pid_exists(preload_process) or not is_alive(psutil.Process(preload_process))
        assert "Traceback" not in server.log


def test_a_preload_process_that_is_not_ready_cannot_fork() -> None:
    ours, theirs = Channel.pair()
    preload_process = PreloadProcess(1, ours, Settings.checked({}))
    with pytest.raises(PreloadUnavailable, match="cannot fork"):
        preload_process.request_worker(0, 1, theirs)
    preload_process.is_ready = True
    theirs.close()
    with pytest.raises(PreloadUnavailable, match="cannot fork"):
        preload_process.request_worker(0, 1, theirs)
    ours.close()


def test_a_request_carries_the_end_of_a_channel_over_which_the_worker_answers() -> None:
    ours, preload_processes = Channel.pair()
    workers_here, workers = Channel.pair()
    preload_process = PreloadProcess(1, ours, Settings.checked({}))
    preload_process.is_ready = True
    preload_process.request_worker(3, 4, workers)
    workers.close()
    message = preload_processes.receive()
    assert message is not None
    assert (message.kind, message.addresses) == (FORK, ("3", "4"))
    (descriptor,) = message.descriptors
    os.close(descriptor)  # as at the end of preload process and worker

    assert workers_here.receive() is None
    for channel in (ours, preload_processes, workers_here):
        channel.close()


def test_messages_sent_before_a_shutdown_are_still_received() -> None:
    ours, theirs = Channel.pair()
    assert theirs.send(BORN, ["1"])
    ours.shut()

    assert not theirs.send(BORN, ["2"])
    message = ours.receive()
    assert message is not None
    assert message.addresses == ("1",)
    assert ours.receive() is None
    for channel in (ours, theirs):
        channel.close()


def make_preload_processes() -> tuple[PreloadProcesses, list[int]]:
    ended: list[int] = []
    return PreloadProcesses(ended.append), ended


def ready(pid: int) -> PreloadProcess:
    ours, theirs = Channel.pair()
    for end in (ours, theirs):
        end.close()
    preload_process = PreloadProcess(pid, ours, Settings.checked({}))
    preload_process.is_ready = True
    return preload_process


def test_a_failed_reload_goes_back_to_the_preload_process_from_before() -> None:
    preload_processes, ended = make_preload_processes()
    preload_processes.current = first = ready(1)
    preload_processes.begin_reload()
    assert not preload_processes.is_ready
    preload_processes.current = ready(2)
    preload_processes.end_reload(succeeded=False)

    assert preload_processes.current is first
    assert ended == [2]


def test_a_reload_that_succeeds_ends_the_preload_process_from_before() -> None:
    preload_processes, ended = make_preload_processes()
    preload_processes.current = ready(1)
    preload_processes.begin_reload()
    preload_processes.current = second = ready(2)
    preload_processes.end_reload(succeeded=True)

    assert preload_processes.current is second
    assert ended == [1]


def test_a_failed_reload_does_not_go_back_to_a_preload_process_that_was_not_ready() -> None:
    preload_processes, ended = make_preload_processes()
    preload_processes.current = ready(1)
    preload_processes.current.is_ready = False
    preload_processes.begin_reload()
    assert ended == [1]
    preload_processes.current = ready(2)
    preload_processes.end_reload(succeeded=False)

    assert preload_processes.current is None
    assert ended == [1, 2]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_preload_process_that_has_ended_is_forgotten(lost: int) -> None:
    preload_processes, ended = make_preload_processes()
    preload_processes.current = ready(1)
    preload_processes.begin_reload()
    preload_processes.current = ready(2)

    assert preload_processes.lost(lost)
    assert not preload_processes.lost(lost)
    preload_processes.end_reload(succeeded=False)

    assert (preload_processes.current is None) == (lost == 1)
    assert ended == ([2] if lost == 1 else [])


#: Runs in the arbiter and so in all processes that it forks: the second fork after the import of the app fails.
FORKS_BADLY = """
import errno, os, sys
_real, _forks = os.fork, []
def fork():
    if "app" in sys.modules:
        _forks.append(os.getpid())
        if _forks.count(os.getpid()) == 2:
            raise OSError(errno.EAGAIN, "there are too many processes")
    return _real()
os.fork = fork
"""


def test_a_preload_process_that_cannot_fork_for_a_moment_goes_on(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(FORKS_BADLY)
    with start(tmp_path) as server:
        (preload_process,) = preload_pids(server)
        server.kill_worker(worker_of(server))
        assert worker_of(server)
        assert preload_pids(server) == [preload_process]
    assert "Cannot fork: [Errno 11] there are too many processes" in server.log
