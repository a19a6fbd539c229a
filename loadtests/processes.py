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

__all__ = [
    "START_PATIENCE_S",
    "NotAnswering",
    "free_port",
    "probe",
    "python_module",
    "running",
    "stop",
    "terminated_as_interrupted",
]

START_PATIENCE_S = 20.0
STOP_PATIENCE_S = 15.0
#: User class -> codec, a message, and the reply to it.
_PROBES: dict[str, tuple[Callable[[], Codec], Any, Any]] = {
    "EchoUser": (Raw, b"ready?\n", b"ready?\n"),
    "JsonUser": (JsonLines, {"type": "SUM", "a": 1, "b": 2}, {"status": "OK", "result": 3}),
}


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
    """End a process by TERM; by KILL what is left of its session after that, at the latest after 15 seconds."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when somebody presses Ctrl-C again, and will not wait
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # as it should be: nothing is left
        process.wait()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within it TERM and HUP are a KeyboardInterrupt, as Ctrl-C is: they too must leave no process behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def probe(
    address: tuple[str, int], user: str, patience_s: float, has_ended: Callable[[], bool] = lambda: False
) -> None:
    """Wait until the server answers an exchange as `user` expects it; NotAnswering if not in `patience_s` seconds."""
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
    codec, message, expected = _PROBES[user]
    with Client(address, codec(), timeout_s=2) as client:
        reply = client.call(message)
    if reply != expected:
        shown = f"{address[0]}:{address[1]}"
        raise NotAnswering(f"the server at {shown} does not speak as {user} does: it answered {reply!r}"[:300])


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
