"""Count the system calls of running processes with strace, for processes that should sleep."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.processes import PATIENCE_S, wait_for

__all__ = ["CALLS_OF_TRACING", "WORKER_CALLS_A_SECOND", "traced", "wait_until_quiet"]

#: What an idle worker does: its heartbeat is two system calls a second, and its block detector four.
WORKER_CALLS_A_SECOND = 6
#: strace ends the call in which it finds a process: an event loop begins it again.
CALLS_OF_TRACING = 2


def switches_of(pid: int) -> int:
    """How often a process was scheduled."""
    return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())))


def wait_until_quiet(pid: int) -> None:
    """Wait until a process has slept for two seconds."""
    until = time.monotonic() + PATIENCE_S
    before, now = -1, switches_of(pid)
    while now != before:
        assert time.monotonic() < until, f"process {pid} does not sleep"
        time.sleep(2)
        before, now = now, switches_of(pid)


@contextmanager
def traced(pids: list[int]) -> Iterator[dict[int, list[float]]]:
    """Trace processes with all their threads. Afterwards the value has the moments of the system calls of each."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    calls: dict[int, list[float]] = {}
    words = ["strace", "-qq", "-f", "-ttt", "-p"]
    tracers = {pid: subprocess.Popen([*words, str(pid)], stderr=subprocess.PIPE, text=True) for pid in pids}
    wait_for(lambda: all(map(is_traced, pids)) or any(each.poll() for each in tracers.values()), "all are traced")
    try:
        yield calls
    finally:
        for tracer in tracers.values():
            tracer.send_signal(signal.SIGINT)
        traces = {pid: tracer.communicate(timeout=PATIENCE_S)[1] for pid, tracer in tracers.items()}
    if any("Operation not permitted" in seen for seen in traces.values()):
        pytest.skip("strace may not attach here")
    for pid, seen in traces.items():
        # The call in which a thread was found is no call of this time.
        found = re.findall(r"^(?:\[pid +\d+\] )?(\d+\.\d+) (?!restart_syscall)\w+\((?!.*resuming)", seen, re.MULTILINE)
        calls[pid] = [float(moment) for moment in found]


def is_traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
