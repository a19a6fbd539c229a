"""A forked child never returns to its parent's code, for any exception."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gserver.process.child import fork_child

ROOT = Path(__file__).parents[3]

#: Forks a child, and writes down who came out of fork_child() and how the child ended; `{setup}` is run first.
PARENT = """
import logging, os, signal, sys
from gserver.process.child import fork_child

parent = os.getpid()
def run():
    return 7
{setup}
try:
    pid = fork_child(run)
finally:
    with open("came_out", "a") as file:
        file.write(f"{{os.getpid() == parent}}\\n")
_, status = os.waitpid(pid, 0)
with open("status", "w") as file:
    file.write(str(os.waitstatus_to_exitcode(status)))
os._exit(0)
"""

RAISES = "def run():\n    raise {}\n"
BROKEN_FLUSH = """
class Broken:
    def write(self, text): pass
    def flush(self): raise {}
sys.stdout = Broken()
"""
BROKEN_HANDLER = """
class Broken(logging.Handler):
    def flush(self): raise SystemExit(9)
logging.getLogger("gserver").addHandler(Broken())
"""
PRINTS = "def run():\n    print('x')\n    return 7\n"
INTERRUPTED = """
def stop(number, frame): raise KeyboardInterrupt
class Interrupted:
    def write(self, text): pass
    def flush(self):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGALRM)
sys.stdout = sys.stderr = Interrupted()
def run():
    signal.signal(signal.SIGALRM, stop)
    return 7
"""


def outcome(folder: Path, setup: str, redirections: str = "") -> tuple[str, str]:
    """Return the processes that returned from the fork, and the exit status of the child."""
    (folder / "parent.py").write_text(PARENT.format(setup=setup))
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {redirections}', "sh", sys.executable, "parent.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "came_out").read_text(), (folder / "status").read_text()


@pytest.mark.parametrize(
    ("setup", "status"),
    [
        ("", "7"),
        (RAISES.format("ValueError('no')"), "1"),
        (RAISES.format("SystemExit(0)"), "1"),
        (RAISES.format("KeyboardInterrupt"), "1"),
        (RAISES.format("GeneratorExit"), "1"),
        (BROKEN_FLUSH.format("BrokenPipeError"), "7"),
        (BROKEN_FLUSH.format("KeyboardInterrupt"), "7"),
        (BROKEN_FLUSH.format("SystemExit(3)"), "7"),
        ("sys.stdout = sys.stderr = None\n", "7"),
        ("sys.stdout.close()\n", "7"),
        (BROKEN_HANDLER, "7"),
        (BROKEN_HANDLER + RAISES.format("ValueError"), "1"),
        (INTERRUPTED, "7"),
    ],
    ids=[
        "returns",
        "exception",
        "exit",
        "interrupt",
        "generator exit",
        "broken pipe",
        "interrupted flush",
        "exit in a flush",
        "no streams",
        "closed stream",
        "log handler that exits",
        "log handler that exits, after an exception",
        "signals in every flush",
    ],
)
def test_only_the_parent_returns_from_a_fork(tmp_path: Path, setup: str, status: str) -> None:
    assert outcome(tmp_path, setup) == ("True\n", status)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">&- 2>&-", "2>/dev/full"])
def test_output_that_leads_nowhere_changes_nothing(tmp_path: Path, redirection: str) -> None:
    assert outcome(tmp_path, PRINTS, redirection) == ("True\n", "7")


def test_a_pipe_without_a_reader_changes_nothing(tmp_path: Path) -> None:
    setup = "reading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 1)\n" + PRINTS

    assert outcome(tmp_path, setup) == ("True\n", "7")


def test_a_child_is_forked_with_the_given_function() -> None:
    forks: list[int] = []

    def fork() -> int:
        forks.append(os.fork())
        return forks[-1]

    pid = fork_child(lambda: signal.SIGTERM, fork)

    assert forks == [pid]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == signal.SIGTERM
