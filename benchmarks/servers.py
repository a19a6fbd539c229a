"""Start a server on a free port of 127.0.0.1, wait until it answers and is idle, and read what it uses."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.failures import Failed
from benchmarks.messages import HELLO, SUM, is_right
from loadtests.host.cpu_time import used_between
from loadtests.host.subprocesses import running
from loadtests.sampling.process_tree import Tree, resident_bytes

__all__ = ["Server", "serving"]

HOST = "127.0.0.1"
START_PATIENCE_S = 20.0
# Idle: less than 10 ms of CPU time in 250 ms. Heartbeats and timers of an idle server use 1 ms at most.
QUIET_S = 0.25
QUIET_CPU_S = 0.01
QUIET_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Server:
    """A server that has answered a first request.

    tree: its processes. reply: its first reply, without the newline.
    """

    tree: Tree
    reply: str

    def sample(self) -> dict[str, Any]:
        """Return a sample of all processes, as used_between() takes it; raise Failed if the server has ended."""
        try:
            processes = self.tree.sample()
        except psutil.Error as error:
            raise Failed(f"its processes cannot be read: {error}") from None
        if not processes:
            raise Failed("it ended during the measurement")
        return {"processes": processes}

    def resident_bytes(self) -> int:
        """Return the resident memory of all processes; a page that several share counts once for each."""
        return sum(resident_bytes(process["pid"]) or 0 for process in self.sample()["processes"])

    def wait_until_quiet(self) -> None:
        """Wait until the server is idle (other workers may still be starting), at most QUIET_PATIENCE_S."""
        deadline = time.monotonic() + QUIET_PATIENCE_S
        before = self.sample()
        while time.monotonic() < deadline:
            time.sleep(QUIET_S)
            now = self.sample()
            if used_between(before, now).seconds < QUIET_CPU_S:
                return
            before = now


@contextmanager
def serving(command: Sequence[str], port: int, service: str, cores: Sequence[int]) -> Iterator[Server]:
    """Run a server on these cores; at the end all of its processes are stopped.

    Raises Failed if the server does not answer, and adds its last line of output to any Failed from the block.
    """
    if shutil.which(command[0]) is None:
        raise Failed(f"there is no program {command[0]!r}")
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "server.log"
        process = stack.enter_context(running(command, log, cores))
        try:
            yield _first_answer(process, port, service)
        except Failed as failure:
            output = log.read_text(errors="replace").strip().splitlines()
            raise Failed(f"{failure}{'; last output: ' + output[-1] if output else ''}") from None


def _first_answer(process: subprocess.Popen[bytes], port: int, service: str) -> Server:
    deadline = time.monotonic() + START_PATIENCE_S
    tree = Tree(process.pid)  # the process is not waited for yet, so that it exists even if it has ended
    while True:
        try:
            return Server(tree, _request(port, service))
        except OSError as error:
            if process.poll() is not None:
                raise Failed(f"it ended with status {process.returncode} before it answered") from None
            if time.monotonic() > deadline:
                raise Failed(f"it does not answer within {START_PATIENCE_S:g} s: {error}") from None
        time.sleep(0.02)


def _request(port: int, service: str) -> str:
    """Send one request, and check and return the reply."""
    request = SUM if service == "json" else HELLO
    with socket.create_connection((HOST, port), timeout=2) as plain, _wrapped(plain, service) as client:
        client.sendall(request.encode() + b"\n")
        reply = _line_from(client.recv)
    if not is_right(request, reply):
        raise Failed(f"it answered {reply!r} to {request!r}")
    return reply


def _wrapped(plain: socket.socket, service: str) -> socket.socket:
    if service != "tls":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is self-signed, and trust is not measured here
    return context.wrap_socket(plain)


def _line_from(receive: Callable[[int], bytes]) -> str:
    line = b""
    while not line.endswith(b"\n"):
        data = receive(4096)
        if not data:
            raise ConnectionResetError(f"the connection ended after {line!r}")
        line += data
    return line[:-1].decode(errors="replace")
