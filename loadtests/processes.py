"""The processes of a run: server, sampler and swarm. Each is started here, and stopped whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gserver.client import Client
from gserver.errors import GServerError
from gserver.framing import Codec, JsonLines, Raw

__all__ = ["START_PATIENCE_S", "NotAnswering", "free_port", "probe", "running", "stop"]

START_PATIENCE_S = 20.0
STOP_PATIENCE_S = 15.0
_SUM = {"type": "SUM", "a": 1, "b": 2}


class NotAnswering(Exception):
    """The server does not answer; the text is one line for a person."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, out of reach of a Ctrl-C at the terminal; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process by TERM, and with all of its session by KILL if it has not ended in 15 seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def probe(
    address: tuple[str, int], user: str, patience_s: float, has_ended: Callable[[], bool] = lambda: False
) -> None:
    """Wait until the server answers an exchange of `user`'s protocol; NotAnswering if it does not in `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _exchange(address, user)
        except (OSError, GServerError) as error:
            shown = f"{address[0]}:{address[1]}"
            if has_ended():
                raise NotAnswering(f"the server at {shown} ended before it answered") from None
            if time.monotonic() > deadline:
                raise NotAnswering(f"the server at {shown} does not answer: {error}") from None
        time.sleep(0.05)


def _exchange(address: tuple[str, int], user: str) -> None:
    codec: Codec = Raw() if user == "EchoUser" else JsonLines()
    message: Any = b"ready?\n" if user == "EchoUser" else _SUM
    with Client(address, codec, timeout_s=2) as client:
        client.call(message)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
