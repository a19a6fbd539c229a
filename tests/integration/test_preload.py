"""preload_app: whatever happens to a mold, at whatever moment, the server goes on or comes back by itself."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from gserver.arbiter.channel import BORN, FORK, Channel
from gserver.arbiter.preload import Mold, MoldBroken, Molds
from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, children_of, is_alive, run_gserver, wait_for

APP = """
import os
from gserver import Lines, Service
app = Service(lambda line, conn: b"%d" % os.getpid(), Lines)
"""
HANGS = "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n"
#: What a mold gets to answer is made short.
IMPATIENT = "from gserver.arbiter import supervision\nsupervision.BIRTH_S = 0.5\n"


def start(folder: Path, *arguments: str, workers: int = 1) -> GserverProcess:
    if not (folder / "app.py").exists():
        (folder / "app.py").write_text(APP)
    settle = ("--reload-settle", "0.1", "--pid", "gserver.pid", "--stats-socket", "stats")
    return GserverProcess(folder, "app:app", "--preload", *settle, *arguments, workers=workers)


def write(folder: Path, text: str) -> None:
    (folder / "app.py").write_text(text)
    for cached in folder.glob("__pycache__/app.*"):
        cached.unlink()


def molds_of(server: GserverProcess) -> list[int]:
    return [int(pid) for pid in re.findall(r"Preloading \(pid: (\d+)\)", server.log)]


def worker_of(server: GserverProcess) -> int:
    with Client(server.address, Lines()) as client:
        return int(client.call(b"?"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_mold_that_is_killed_is_replaced_when_it_is_needed(tmp_path: Path, number: int) -> None:
    with start(tmp_path) as server:
        (mold,) = molds_of(server)
        os.kill(mold, number)
        server.wait_for_log(rf"Mold ended with signal {signal.Signals(number).name} \(pid: {mold}\)")
        server.kill_worker(worker_of(server))

        assert worker_of(server) in children_of(server.process.pid)
        assert len(molds_of(server)) == 2
        assert "Cannot fork" not in server.log
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_when_the_mold_and_all_workers_are_killed_one_mold_brings_them_back(tmp_path: Path) -> None:
    with start(tmp_path, workers=3) as server:
        for pid in [*molds_of(server), *server.serving_pids()]:
            os.kill(pid, signal.SIGKILL)
        server.wait_for_log("Worker ready", 6)

        assert len(molds_of(server)) == 2
        assert "Cannot fork" not in server.log


def test_a_mold_killed_while_it_imports_fails_its_reload_and_the_next_one_works(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        before = worker_of(server)
        write(tmp_path, HANGS)
        server.signal(signal.SIGHUP)
        server.wait_for_log("importing")
        os.kill(molds_of(server)[1], signal.SIGKILL)
        server.wait_for_log("Reload failed")
        assert worker_of(server) == before
        write(tmp_path, APP)

        assert run_gserver("--reload-pid", "gserver.pid", cwd=tmp_path).returncode == 0

        assert worker_of(server) != before
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_a_stopped_mold_holds_up_nobody_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(IMPATIENT)
    with start(tmp_path) as server:
        (mold,) = molds_of(server)
        os.kill(mold, signal.SIGSTOP)
        os.kill(worker_of(server), signal.SIGKILL)
        server.wait_for_log("exited with signal SIGKILL")
        stats = run_gserver("--stats", "stats", cwd=tmp_path)  # the arbiter does not wait for the mold
        server.wait_for_log("The mold does not fork, and is killed")
        server.wait_for_log("Worker ready", 2)

        assert '"pid"' in stats.stdout
        assert worker_of(server) in children_of(server.process.pid)
        assert "Traceback" not in server.log


def test_an_order_ends_with_the_mold_that_has_not_carried_it_out(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        (mold,) = molds_of(server)
        os.kill(mold, signal.SIGSTOP)
        os.kill(worker_of(server), signal.SIGKILL)
        server.wait_for_log("exited with signal SIGKILL")
        os.kill(mold, signal.SIGKILL)
        server.wait_for_log("Worker ready", 2)

        assert worker_of(server) in children_of(server.process.pid)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_worker_that_is_forked_too_late_does_not_stay(tmp_path: Path) -> None:
    """The mold goes on after the order was given up, and before it is killed."""
    (tmp_path / "gserver.conf.py").write_text("from gserver.arbiter import supervision\nsupervision.BIRTH_S = 3600\n")
    with start(tmp_path) as server:
        (mold,) = molds_of(server)
        os.kill(mold, signal.SIGSTOP)
        server.signal(signal.SIGTTIN)
        wait_for(lambda: "Workers: 2 instead of 1" in server.log, "a second worker is ordered")
        server.signal(signal.SIGTTOU)
        wait_for(lambda: "Workers: 1 instead of 2" in server.log, "it is needed no more")
        os.kill(mold, signal.SIGCONT)
        known = {mold, worker_of(server)}
        wait_for(lambda: children_of(server.process.pid) == known, "the worker that came too late has ended")

        assert server.log.count("Booting worker") == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_stop_waits_for_no_mold(tmp_path: Path, stop: int) -> None:
    with start(tmp_path) as server:
        (mold,) = molds_of(server)
        os.kill(mold, signal.SIGSTOP)
        os.kill(worker_of(server), signal.SIGKILL)
        server.wait_for_log("exited with signal SIGKILL")
        server.signal(stop)

        assert server.wait() == 0
        assert not psutil.pid_exists(mold) or not is_alive(psutil.Process(mold))
        assert "Traceback" not in server.log


def test_a_mold_that_is_not_ready_takes_no_orders() -> None:
    ours, theirs = Channel.pair()
    mold = Mold(1, ours)
    with pytest.raises(MoldBroken, match="takes no orders"):
        mold.order(0, 1, theirs)
    mold.is_ready = True
    theirs.close()
    with pytest.raises(MoldBroken, match="takes no orders"):
        mold.order(0, 1, theirs)
    ours.close()


def test_an_order_carries_the_end_of_a_channel_over_which_the_worker_answers() -> None:
    ours, molds = Channel.pair()
    workers_here, workers = Channel.pair()
    mold = Mold(1, ours)
    mold.is_ready = True
    mold.order(3, 4, workers)
    workers.close()
    message = molds.receive()
    assert message is not None
    assert (message.word, message.addresses) == (FORK, ("3", "4"))
    (descriptor,) = message.descriptors
    os.close(descriptor)  # as when mold and worker end

    assert workers_here.receive() is None
    for channel in (ours, molds, workers_here):
        channel.close()


def test_what_was_sent_before_an_end_is_shut_is_still_received() -> None:
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


def make_molds() -> tuple[Molds, list[int]]:
    ended: list[int] = []
    return Molds(ended.append), ended


def ready(pid: int) -> Mold:
    ours, theirs = Channel.pair()
    for end in (ours, theirs):
        end.close()
    mold = Mold(pid, ours)
    mold.is_ready = True
    return mold


def test_a_failed_reload_goes_back_to_the_mold_from_before() -> None:
    molds, ended = make_molds()
    molds.current = first = ready(1)
    molds.begin_reload()
    assert not molds.is_ready
    molds.current = ready(2)
    molds.end_reload(succeeded=False)

    assert molds.current is first
    assert ended == [2]


def test_a_reload_that_succeeds_ends_the_mold_from_before() -> None:
    molds, ended = make_molds()
    molds.current = ready(1)
    molds.begin_reload()
    molds.current = second = ready(2)
    molds.end_reload(succeeded=True)

    assert molds.current is second
    assert ended == [1]


def test_a_mold_that_was_not_ready_is_nothing_to_go_back_to() -> None:
    molds, ended = make_molds()
    molds.current = ready(1)
    molds.current.is_ready = False
    molds.begin_reload()
    assert ended == [1]
    molds.current = ready(2)
    molds.end_reload(succeeded=False)

    assert molds.current is None
    assert ended == [1, 2]


@pytest.mark.parametrize("lost", [1, 2])
def test_a_mold_that_has_ended_is_forgotten(lost: int) -> None:
    molds, ended = make_molds()
    molds.current = ready(1)
    molds.begin_reload()
    molds.current = ready(2)

    assert molds.lost(lost)
    assert not molds.lost(lost)
    molds.end_reload(succeeded=False)

    assert (molds.current is None) == (lost == 1)
    assert ended == ([2] if lost == 1 else [])


#: In the arbiter, and so in all that it forks: the second fork of a process that has the application fails.
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


def test_a_mold_that_cannot_fork_for_a_moment_goes_on(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(FORKS_BADLY)
    with start(tmp_path) as server:
        (mold,) = molds_of(server)
        server.kill_worker(worker_of(server))
        assert worker_of(server)
        assert molds_of(server) == [mold]
    assert "Cannot fork: [Errno 11] there are too many processes" in server.log
