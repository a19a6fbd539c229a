"""Run the client (client/load.c): it opens connections, waits for the line "go", loads the server, prints a report."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from benchmarks.failures import Failed
from benchmarks.figures import Outcome
from benchmarks.jobs import Scenario
from benchmarks.messages import CALL, HELLO, SUM
from loadtests.host.cpu_affinity import on_cores

__all__ = ["Load", "arguments_of", "loading"]

WARM_UP_S = 0.5


def arguments_of(scenario: Scenario, port: int, reply: str, seconds: float) -> list[str]:
    """Return the client's arguments; `reply` is the server's reply to SUM, as the server formats it."""
    service = scenario.job.service
    if service == "json":
        content = ["--message", SUM, "--reply", reply]
    elif service == "broadcast":
        content = ["--message", CALL.ljust(scenario.payload - 1, "x"), "--opening", HELLO]
    else:
        content = ["--size", str(scenario.payload)]
    options = {
        "port": port,
        "mode": scenario.job.mode,
        "connections": scenario.connections,
        "depth": scenario.depth,
        "seconds": seconds,
        "warm-up": 0 if scenario.job.mode == "idle" else min(WARM_UP_S, seconds),
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*flags, *content, *(["--tls"] if scenario.tls else [])]


class Load:
    """A running client: its commands on standard input, its reports on standard output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout

    def wait_until_ready(self) -> None:
        """Wait until all connections are open and warmed up; raise Failed if the client fails."""
        self._line()

    def go(self) -> Outcome:
        """Start the load, and return the report after the last reply; the connections stay open."""
        self._stdin.write("go\n")
        self._stdin.flush()
        return Outcome(**json.loads(self._line()))

    def _line(self) -> str:
        line = self._stdout.readline()
        if not line:
            assert self._process.stderr is not None
            problem = self._process.stderr.read().strip()
            raise Failed(problem or f"load: ended with status {self._process.wait()}")
        return line


@contextmanager
def loading(command: Sequence[str], cores: Sequence[int]) -> Iterator[Load]:
    """Run the client on these cores; at the end its connections are closed and it has ended."""
    pipe = subprocess.PIPE
    with on_cores(cores):
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    with process:
        try:
            yield Load(process)
        except BaseException:
            process.kill()
            raise
