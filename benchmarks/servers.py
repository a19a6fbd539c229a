"""A server as a process: started on a free port of 127.0.0.1, asked until it answers, left alone until it is quiet."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.failures import Failed
from benchmarks.figures import Usage
from benchmarks.messages import HELLO, SUM, is_right
from benchmarks.process_tree import usage_of
from benchmarks.processors import pinned
from loadtests.host.subprocesses import running

__all__ = ["Server", "serving"]

HOST = "127.0.0.1"
START_PATIENCE_S = 20.0
QUIET_S = 0.25
QUIET_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Server:
    """A server that answers.

    reply: what it said when it was asked, without the newline.
    """

    pid: int
    port: int
    reply: str

    def usage(self) -> Usage:
        return usage_of(self.pid)

    def wait_until_quiet(self) -> None:
        """Until it uses no processor any more: other workers may still be starting; or for a few seconds."""
        deadline = time.monotonic() + QUIET_PATIENCE_S
        before = self.usage().cpu_s
        while time.monotonic() < deadline:
            time.sleep(QUIET_S)
            now = self.usage().cpu_s
            if now == before:
                return
            before = now


@contextmanager
def serving(command: Sequence[str], port: int, service: str, processors: Set[int]) -> Iterator[Server]:
    """Run a server on these processors; at the end nothing of it is left.

    Failed if it does not answer, or where that is how its measurement ends: then with what it said last.
    """
    if shutil.which(command[0]) is None:
        raise Failed(f"there is no program {command[0]!r}")
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "server.log"
        with pinned(processors):
            process = stack.enter_context(running(command, log))
        try:
            yield Server(process.pid, port, _first_reply(process, port, service))
        except Failed as failure:
            said = log.read_text(errors="replace").strip().splitlines()
            raise Failed(f"{failure}{'; the server said: ' + said[-1] if said else ''}") from None


def _first_reply(process: subprocess.Popen[bytes], port: int, service: str) -> str:
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            return _ask(port, service)
        except OSError as error:
            if process.poll() is not None:
                raise Failed(f"it ended with status {process.returncode} before it answered") from None
            if time.monotonic() > deadline:
                raise Failed(f"it does not answer within {START_PATIENCE_S:g} s: {error}") from None
        time.sleep(0.02)


def _ask(port: int, service: str) -> str:
    """Ask once, and check the answer."""
    question = SUM if service == "json" else HELLO
    with socket.create_connection((HOST, port), timeout=2) as plain, _wrapped(plain, service) as client:
        client.sendall(question.encode() + b"\n")
        reply = _line_from(client.recv)
    if not is_right(question, reply):
        raise Failed(f"it answered {reply!r} to {question!r}")
    return reply


def _wrapped(plain: socket.socket, service: str) -> socket.socket:
    if service != "tls":
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is its own authority, and this is not about trust
    return context.wrap_socket(plain)


def _line_from(receive: Callable[[int], bytes]) -> str:
    line = b""
    while not line.endswith(b"\n"):
        data = receive(4096)
        if not data:
            raise ConnectionResetError(f"the connection ended after {line!r}")
        line += data
    return line[:-1].decode(errors="replace")
