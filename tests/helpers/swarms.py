"""Locust in a process of its own, and servers that misbehave on purpose for it to meet."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loadtests.recording import Recording
from loadtests.results import load_recording

__all__ = ["LOCUSTFILE", "Swarm", "misbehaving"]

LOCUSTFILE = Path(__file__).parents[2] / "loadtests" / "locustfile.py"
PATIENCE_S = 40


class Swarm:
    """A headless Locust that began; finish() waits for its end and reads what it recorded."""

    def __init__(self, folder: Path, host: str, *arguments: str, locustfile: Path = LOCUSTFILE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._recording = folder / "client.json"
        self._log = folder / "locust.log"
        command = [sys.executable, "-m", "locust", "--headless", "-f", str(locustfile), "--host", host]
        command += ["--recording", str(self._recording), "--only-summary", "--stop-timeout", "3", *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def finish(self) -> Recording:
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert self._recording.exists(), self.log
        return load_recording(self._recording)

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextlib.contextmanager
def misbehaving(behave: Callable[[socket.socket], Any]) -> Iterator[str]:
    """The tcp:// address of a server that treats every client as `behave` does, and then closes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                behave(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield "tcp://{}:{}".format(*server.server_address)
        finally:
            server.shutdown()
            thread.join()


def reset(client: socket.socket) -> None:
    """Read something, then go without a goodbye."""
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
