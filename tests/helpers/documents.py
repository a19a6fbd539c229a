"""Runs the commands of a document, and compares their output with what the document shows.

Changes: ports are replaced by free ones, a Locust with a web UI runs headless for two seconds, and a run is shortened.
`make` is skipped, because `make test` runs these tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.ports import NamedPorts
from tests.helpers.processes import GserverProcess, wait_for

__all__ = ["Reader", "blocks", "commands"]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command, and the output that the document shows for it."""
    for block in blocks(text, "console"):
        command, _, output = block.partition("\n")
        assert command.startswith("$ "), block
        yield command.removeprefix("$ "), output


class Reader:
    """Does in `folder` what a document says, in its order: writes each file, and runs each command."""

    def __init__(self, folder: Path, servers: contextlib.ExitStack) -> None:
        self.folder = folder
        self.servers = servers
        self.ports = NamedPorts()

    def follow(self, text: str) -> None:
        for language, code in re.findall(r"^```(python|js|console)\n(.*?)^```", text, re.M | re.S):
            if language != "console":
                self.write(code)
            else:
                ((command, shown),) = commands(f"```console\n{code}```")
                self.type(command, shown)

    def write(self, code: str) -> None:
        """Write a module into the file that its first line names."""
        name = re.match(r"(?:#|//) (\w+\.(?:py|js))\n", code)
        assert name, code
        (self.folder / name[1]).write_text(code)

    def type(self, command: str, shown: str) -> None:
        words = shlex.split(command)
        if words[0] == "make":
            return
        command = self.with_free_ports(command)
        if words[0] in ("node", "python") and words[-1].isdigit():
            command = f"{words[0]} {words[1]} {self._port(words[-1])}"
        if words[0] == "gserver" and not {"-b", "-c"}.isdisjoint(words):
            self._serve(command)
        elif words[0] in ("node", "python") and self._is_server(words[1]):
            self._start(shlex.split(command.replace("python", sys.executable, 1)))
        elif words[0] == "locust":
            self._run(f"{command} --headless -u 5 -r 5 -t 2s".replace("loadtests/", f"{ROOT}/loadtests/"))
        elif words[:2] == ["loadtests", "run"]:
            # Status 3: the machine is too busy for valid figures; the document is still right.
            assert re.search(r"none\s+of", self._run(f"{command} --duration 5", 0, 3))
        elif words[0] == "pytest":
            assert _without_times(self._run(command)) == _without_times(shown)
        elif words[:2] == ["loadtests", "compare"]:
            assert self._run(command, folder=ROOT) == shown
        else:
            assert self._run(command) == shown

    def with_free_ports(self, text: str) -> str:
        """Replace the ports in `text`: one port of a document is the same free port in all of its texts."""
        return re.sub(r"127\.0\.0\.1:(\d+)", self._free, text)

    def _free(self, found: re.Match[str]) -> str:
        return f"127.0.0.1:{self._port(found[1])}"

    def _port(self, shown: str) -> int:
        return self.ports[shown]

    def _serve(self, command: str) -> None:
        arguments = shlex.split(command)[1:]
        bind = None
        if "-b" in arguments:
            bind = arguments.pop(arguments.index("-b") + 1)
            arguments.remove("-b")
        workers = int(arguments[arguments.index("-w") + 1]) if "-w" in arguments else 1
        self.servers.enter_context(GserverProcess(self.folder, *arguments, bind=bind, workers=workers))

    def _is_server(self, program: str) -> bool:
        path = self.folder / program
        return path.exists() and bool(re.search(r"\.listen\(|serve_forever\(|reactor\.run\(", path.read_text()))

    def _start(self, command: list[str]) -> None:
        """Start a server whose last argument is its port, and wait until it listens."""
        process = self.servers.enter_context(subprocess.Popen(command, cwd=self.folder))
        self.servers.callback(process.kill)
        wait_for(lambda: is_open(int(command[-1])), f"{command} listens")

    def _run(self, command: str, *statuses: int, folder: Path | None = None) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=folder or self.folder,
            env={**os.environ, "PATH": path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode in (statuses or (0,)), ended
        return ended.stdout


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def _without_times(output: str) -> list[str]:
    return re.sub(r"in [\d.]+s", "in ...s", output).split()
