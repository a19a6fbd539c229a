"""Swarms of real Locust processes, and servers that misbehave."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from loadtests.host.subprocesses import free_port
from loadtests.recording.recording import NEVER_SENT, Recording
from loadtests.results.store import load_recording

__all__ = ["LOCUSTFILE", "JsonServer", "Peer", "Swarm", "bound_socket", "of_processes", "reset"]

LOCUSTFILE = Path(__file__).parents[2] / "loadtests" / "locustfile.py"
SWARM_PATIENCE_S = 60.0


def of_processes(count: int) -> list[str]:
    """Return the arguments of a swarm with `count` processes and a free port for its master."""
    port = str(free_port())
    return ["--processes", str(count), "--master-bind-port", port, "--master-port", port]


class Swarm:
    """A headless Locust process; finish() waits for its end."""

    def __init__(self, folder: Path, host: tuple[str, int] | str, *arguments: str, file: Path = LOCUSTFILE) -> None:
        self._folder = folder
        folder.mkdir()
        url = host if isinstance(host, str) else "tcp://{}:{}".format(*host)
        to = ["--host", url] if url else []
        records = ["--recording", "client.json", "--progress", "progress.jsonl"]
        command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(file), *to]
        with (folder / "locust.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *records, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )

    @property
    def log(self) -> str:
        return (self._folder / "locust.log").read_text()

    @property
    def progress(self) -> str:
        path = self._folder / "progress.jsonl"
        return path.read_text() if path.exists() else ""

    @property
    def is_up(self) -> bool:
        """Whether Locust has been imported (1 s of CPU time), or the process has ended."""
        return "Starting Locust" in self.log or self.process.poll() is not None

    def finish(self) -> Swarm:
        """Wait for the end; after SWARM_PATIENCE_S kill the swarm and fail."""
        try:
            self.process.wait(SWARM_PATIENCE_S)
        finally:
            self.kill()
        return self

    def kill(self) -> Swarm:
        """Kill the swarm; it may have ended already."""
        self.process.kill()
        self.process.wait()
        return self

    @property
    def recording(self) -> Recording:
        return load_recording(self._folder / "client.json")

    @property
    def outcomes(self) -> dict[str, Counter[str]]:
        """The counts of the recording: series -> outcome -> count.

        Ticks that were due at the end of the test and not yet sent, as on a busy host, are left out.
        """
        recording = self.recording
        return {series: recording.total([series]).outcomes for series in recording.cells if series != NEVER_SENT}

    @property
    def exchanges(self) -> Counter[str]:
        """The outcomes of all exchanges, without connects."""
        recording = self.recording
        return recording.total(set(recording.exchange_series()) - {NEVER_SENT}).outcomes

    @property
    def locust_counts(self) -> dict[str, tuple[int, int]]:
        """Locust's own statistics, from its output: name -> (requests, failures)."""
        rows = re.findall(r"^TCP +(\S+) +(\d+) +(\d+)\(", self.log, re.MULTILINE)
        return {name: (int(requests), int(failures)) for name, requests, failures in rows}

    @property
    def csv(self) -> dict[str, dict[str, str]]:
        """Locust's statistics in the file of `--csv kept`: name -> column -> value."""
        with (self._folder / "kept_stats.csv").open() as file:
            return {row["Name"]: row for row in csv.DictReader(file)}


class Peer:
    """A server with a thread for each connection, which runs `behave` and then closes the connection."""

    def __init__(self, behave: Callable[[socket.socket], None], bound: socket.socket | None = None) -> None:
        self._behave = behave
        self._listener = bound or bound_socket()
        self._listener.listen(100)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the swarm has ended
            self._behave(connection)


def reset(connection: socket.socket) -> None:
    """Close a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def bound_socket() -> socket.socket:
    """Return a socket that is bound and does not listen: connects are refused, and the port is reserved."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


class JsonServer:
    """A behaviour for Peer: reply to GREETING and SUM, `times` times each, and count the replies."""

    def __init__(self, times: int = 1) -> None:
        self.answered = 0
        self._times = times
        self._lock = threading.Lock()

    def __call__(self, connection: socket.socket) -> None:
        with connection.makefile("rwb") as file:
            for line in file:
                file.write(self._times * (json.dumps(self._reply(json.loads(line))).encode() + b"\n"))
                file.flush()
                with self._lock:
                    self.answered += 1

    def _reply(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["type"] == "SUM":
            return {"status": "OK", "result": message["a"] + message["b"]}
        return {"status": "OK", "reply": f"Hello, {message['name']}!"}
