"""Plays the runbook of docs/operations.md: runs its commands in their order, and compares what they print.

A case of the runbook is the text below one heading. Its blocks of the language `console` have commands and output. Each
line of the page must be among those that the command prints, without regard to numbers and white space. `...` in a line
stands for any text, and as a whole line for lines that are left out.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gserver.control.client import ControlClient
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for

__all__ = ["CULPRIT", "PAGE", "Asking", "Case", "Step", "Troubled", "cases", "steps_of"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/operations.md"
SERVICE = ROOT / "examples/trouble.py"
GSERVERCTL = [sys.executable, "-c", "from gserver.control.cli import entry_point; entry_point()"]
#: The address of the client that causes the trouble; all others come from 127.0.0.1.
CULPRIT = "127.0.0.9"
#: Commands that change something: they are run once. What others show may need some time.
STEERING = ("set", "close", "ready", "reload", "stop", "upgrade", "log-level", "profile")
_UNIT = r"(?: (?:ms|s|min|h|d|B|[KMGT]iB)\b)?"


@dataclass(frozen=True)
class Step:
    """A command of the page, and the lines that it prints there."""

    command: str
    output: Sequence[str] = ()

    @property
    def words(self) -> list[str]:
        program, *words = shlex.split(self.command)
        assert program == "gserverctl", self.command
        return words

    @property
    def is_steering(self) -> bool:
        command, *rest = self.words
        return command in STEERING or (command == "workers" and bool(rest))


def cases() -> dict[str, str]:
    """The headings of the runbook, and the text below each."""
    _, _, runbook = PAGE.read_text("utf-8").partition("\n## Runbook\n")
    assert runbook, "there is no runbook"
    _, *parts = re.split(r"^### (.+)$", runbook, flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def steps_of(text: str) -> list[Step]:
    """The commands in the console blocks of a text."""
    steps: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line.removeprefix("$ "), []))
            else:
                steps[-1].output.append(line)  # type: ignore[attr-defined]
    return steps


def normalised(line: str) -> str:
    """A line without its numbers and its white space."""
    line = line.replace(CULPRIT, "CULPRIT")
    line = re.sub(rf"\d[\d.,:-]*\d{_UNIT}|\d{_UNIT}", "N", line)
    return " ".join(re.sub(r"-{3,}", "-", line).split())


def is_like(expected: str, found: str) -> bool:
    """Whether a normalised line is the one of the page, where `...` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), found) is not None


class Troubled(GserverProcess):
    """A server with examples/trouble.py and a control socket, in a folder with a copy of the service."""

    def __init__(self, folder: Path, *arguments: str, workers: int = 2, command: Sequence[str] = ()) -> None:
        self.folder = folder
        self.service = folder / "trouble.py"
        self.service.write_text(SERVICE.read_text())
        self.path = str(folder / "ctl")
        own = [sys.executable, "-m", "gserver", "trouble:app", "-b", "127.0.0.1:0", "-w", str(workers)]
        own += ["--control-socket", self.path, "--log-file", "log", *arguments]
        super().__init__(
            folder,
            command=[*command, *own],
            bind=None,
            workers=workers,
            log=folder / "log",
            environment={"PYTHONFAULTHANDLER": "1"},
        )

    def __enter__(self) -> Self:
        super().__enter__()
        wait_for(lambda: self.status["state"] == "serving", "all workers serve")
        return self

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        with ControlClient(self.path) as client:
            return client.call(command, **arguments)

    @property
    def status(self) -> dict[str, Any]:
        return self.call("status")

    def worker_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call("workers").get("rows", [])
        return rows

    def connection_rows(self, where: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.call("connections", where=where).get("rows", [])
        return rows

    def gserverctl(self, *words: str) -> str:
        """Run gserverctl; return what it prints, on both outputs."""
        if words == ("top",):
            words = ("top", "--rounds", "1")
        command = [*GSERVERCTL, "-s", self.path, *words]
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S, check=False
        )
        return ended.stdout


@dataclass
class Case:
    """A case of the runbook that is played with a server.

    Args:
        worker, connection: return what a number and an id in the commands of the page stand for here.
    """

    server: Troubled
    heading: str
    worker: Callable[[], int] = lambda: 0
    connection: Callable[[], str] = lambda: ""
    taken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._steps = iter(steps_of(cases()[self.heading]))
        self._began_at = time.monotonic()

    def play(self, count: int) -> None:
        """Run the next commands of the page, and check what they print."""
        for _ in range(count):
            step = next(self._steps)
            self._check(step, self._words(step))

    def end(self) -> float:
        """Check that all commands have been run; return the seconds since the beginning."""
        assert list(self._steps) == [], "commands of the page are left"
        took_s = time.monotonic() - self._began_at
        print(f"{self.heading}: {len(self.taken)} commands in {took_s:.1f} s")
        return took_s

    def _words(self, step: Step) -> list[str]:
        words = [re.sub(r"\b\d{3,7}-\d+\b|\bCONNECTION\b", lambda _: self.connection(), word) for word in step.words]
        of_worker = re.compile(r"(?:(?<=worker=)|^)(?:\d{3,7}|WORKER)$")
        names_worker = step.words[0] in ("profile", "stacks", "workers") or "worker=" in step.command
        return [of_worker.sub(lambda _: str(self.worker()), word) if names_worker else word for word in words]

    def _check(self, step: Step, words: list[str]) -> None:
        self.taken.append(shlex.join(["gserverctl", *words]))
        expected = [normalised(line) for line in step.output if line.strip() not in ("", "...")]
        printed = ""

        def is_as_on_the_page() -> bool:
            nonlocal printed
            printed = self.server.gserverctl(*words)
            found = [normalised(line) for line in printed.splitlines()]
            return all(any(is_like(line, each) for each in found) for line in expected)

        try:
            if step.is_steering:
                assert is_as_on_the_page()
            else:
                wait_for(is_as_on_the_page, step.command)
        except AssertionError:
            shown = "\n".join(expected)
            raise AssertionError(f"{words}\nexpected:\n{shown}\nprinted:\n{printed}") from None
        print(f"$ {self.taken[-1]}\n{printed}", end="")


class Asking:
    """Clients that send a line again and again, from one address; they connect again when they are closed.

    Use in `with`. Args:
        pause_s: between a reply and the next line; before: between connecting and the first line.
    """

    def __init__(
        self,
        server: GserverProcess,
        line: str,
        *,
        count: int = 1,
        pause_s: float = 0.05,
        before_s: float = 0.0,
        source: str = "127.0.0.1",
    ) -> None:
        self._address, self._line, self._source = server.address, line.encode() + b"\n", source
        self._pause_s, self._before_s = pause_s, before_s
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._latencies: list[float] = []
        self.replies = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        self._sockets: set[socket.socket] = set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def latencies(self) -> list[float]:
        """The latencies since the last call, in seconds."""
        with self._lock:
            taken, self._latencies = self._latencies, []
        return taken

    def _run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError), self._connected() as sock, sock.makefile("rb") as replies:
                self._is_over.wait(self._before_s)
                while not self._is_over.is_set():
                    began_at = time.monotonic()
                    sock.sendall(self._line)
                    if not replies.readline():
                        break
                    with self._lock:
                        self._latencies.append(time.monotonic() - began_at)
                        self.replies += 1
                    self._is_over.wait(self._pause_s)
            self._is_over.wait(0.2)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(self._address, PATIENCE_S, (self._source, 0)) as sock:
            with self._lock:
                self._sockets.add(sock)
            try:
                yield sock
            finally:
                with self._lock:
                    self._sockets.discard(sock)
