"""The client as a process: it opens connections, is told to go, and says what came of it (client/load.c)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import IO

from benchmarks.failures import Failed
from benchmarks.figures import Outcome
from benchmarks.jobs import Scenario
from benchmarks.messages import CALL, HELLO, SUM
from benchmarks.processors import pinned

__all__ = ["Load", "arguments_of", "loading"]

WARM_UP_S = 0.5


def arguments_of(scenario: Scenario, port: int, reply: str, seconds: float) -> list[str]:
    """The client's arguments; `reply` is what the server answers to a SUM."""
    service = scenario.job.service
    if service == "json":
        what = ["--message", SUM, "--reply", reply]
    elif service == "broadcast":
        what = ["--message", CALL.ljust(scenario.payload - 1, "x"), "--opening", HELLO]
    else:
        what = ["--size", str(scenario.payload)]
    how = {
        "port": port,
        "mode": scenario.job.mode,
        "connections": scenario.connections,
        "depth": scenario.depth,
        "seconds": seconds,
        "warm-up": 0 if scenario.job.mode == "idle" else min(WARM_UP_S, seconds),
    }
    flags = [word for name, value in how.items() for word in (f"--{name}", str(value))]
    return [*flags, *what, *(["--tls"] if scenario.tls else [])]


class Load:
    """The conversation with the client."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout

    def wait_until_ready(self) -> None:
        """All connections are open, and warm; Failed if they cannot be."""
        self._line()

    def go(self) -> Outcome:
        """Let it load the server, and return when the last answer is there; the connections stay open."""
        self._stdin.write("go\n")
        self._stdin.flush()
        return Outcome(**json.loads(self._line()))

    def _line(self) -> str:
        line = self._stdout.readline()
        if not line:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip()
            raise Failed(said or f"load: ended with status {self._process.wait()}")
        return line


@contextmanager
def loading(command: Sequence[str], processors: Set[int]) -> Iterator[Load]:
    """Run the client on these processors; at the end it closes its connections and is gone."""
    pipe = subprocess.PIPE
    with pinned(processors):
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    with process:
        try:
            yield Load(process)
        except BaseException:
            process.kill()
            raise
