"""The processes of a run: each ends, whoever is in its way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtests.host.subprocesses import free_port, open_gate, running, stop, terminated_as_interrupted
from tests.helpers.processes import wait_for

PATIENCE_S = 60.0
#: Has a child that ignores TERM and outlives it; prints the child's pid.
WITH_STRAGGLER = """
import signal, subprocess, sys
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
straggler = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
straggler.stdout.readline()
print(straggler.pid, flush=True)
signal.pause()
"""


def start_python(program: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, "-c", program], stdout=output, start_new_session=True)


def first_line(log: Path) -> str:
    wait_for(lambda: "\n" in log.read_text(), "a line of the process")
    return log.read_text().splitlines()[0]


def is_gone(pid: int) -> bool:
    """A zombie that its new parent has yet to reap is gone too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_free_port_is_not_an_ephemeral_one() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    assert not [port for port in (free_port() for _ in range(20)) if first <= port <= last]


def test_children_of_a_stopped_process_are_killed(tmp_path: Path) -> None:
    process = start_python(WITH_STRAGGLER, tmp_path / "log")
    straggler = int(first_line(tmp_path / "log"))

    stop(process)

    assert process.returncode == -signal.SIGTERM
    wait_for(lambda: is_gone(straggler), "the end of the straggler")


def test_a_process_that_ignores_term_is_killed_by_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it is being waited for: nobody waits any longer, and still it ends."""
    program = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1, flush=True)\nwhile 1: signal.pause()"
    )
    process = start_python(program, tmp_path / "log")
    first_line(tmp_path / "log")
    real_wait = process.wait

    def impatient(timeout: float | None = None) -> int:
        if timeout is not None:
            raise KeyboardInterrupt
        return real_wait(PATIENCE_S)

    monkeypatch.setattr(process, "wait", impatient)
    with pytest.raises(KeyboardInterrupt):
        stop(process)

    assert process.returncode == -signal.SIGKILL


def test_stopping_a_process_that_has_ended_does_nothing(tmp_path: Path) -> None:
    process = start_python("raise SystemExit(3)", tmp_path / "log")
    process.wait(PATIENCE_S)

    stop(process)

    assert process.returncode == 3


def test_a_process_runs_only_inside_the_with(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "print('here', flush=True); input()"], tmp_path / "log") as process:
        first_line(tmp_path / "log")

    assert process.returncode is not None
    assert (tmp_path / "log").read_text().startswith("here")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_term_and_hup_interrupt_like_ctrl_c_only_within_the_with(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(number)

    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """Under nohup a run outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminated_as_interrupted():
            signal.raise_signal(signal.SIGHUP)
    except KeyboardInterrupt:
        pytest.fail("it was not ignored")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_gated_process_starts_when_its_gate_is_opened(tmp_path: Path) -> None:
    """And is the same process then."""
    log = tmp_path / "log"
    with running([sys.executable, "-c", "import os; print(os.getpid())"], log, is_gated=True) as process:
        assert process.poll() is None
        open_gate(process)
        process.wait(PATIENCE_S)

    assert log.read_text() == f"{process.pid}\n"


def test_a_gated_process_never_starts_if_its_gate_stays_closed(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "print('begun')"], tmp_path / "log", is_gated=True) as process:
        pass

    assert process.returncode is not None
    assert (tmp_path / "log").read_text() == ""
