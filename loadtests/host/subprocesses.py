"""The processes of a run: server, sampler and swarm. Each is started here, and stopped whatever happens."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtests.host.bounded_log import BoundedLog
from loadtests.host.cpu_affinity import on_cores

__all__ = [
    "START_PATIENCE_S",
    "NotAnswering",
    "free_port",
    "open_gate",
    "python_module",
    "running",
    "stop",
    "terminated_as_interrupted",
]

START_PATIENCE_S = 20.0
_FIRST_PORT = 10_000
STOP_PATIENCE_S = 15.0
#: Waits for a line, and becomes another program then.
_GATE = ["sh", "-c", 'read -r _ && exec "$@"', "sh"]


class NotAnswering(Exception):
    """The server does not answer; the text is one line for a person."""


def free_port() -> int:
    """A port that was free a moment ago, and that the kernel gives to nobody who does not ask for it.

    One that bind() chose for port 0 may be the next client's, or the next one's who binds to port 0.
    """
    for port in (*random.sample(range(_FIRST_PORT, _first_ephemeral_port()), 100), 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # it is taken
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise OSError(errno.EADDRINUSE, "there is no free port at 127.0.0.1")


def _first_ephemeral_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:  # no /proc, or another kernel
        first = 32768
    return max(first, _FIRST_PORT + 1000)


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    cores: Sequence[int] = (),
    is_gated: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, out of reach of a Ctrl-C at the terminal; its output goes to `log`.

    cores: where it runs; empty: anywhere. is_gated: it begins only with open_gate(), and has its number before.
    The log is bounded: of a long one the beginning and the end are kept.
    """
    with BoundedLog(log) as output:
        with on_cores(cores):
            process = subprocess.Popen(
                [*_GATE, *command] if is_gated else command,
                stdin=subprocess.PIPE if is_gated else subprocess.DEVNULL,
                stdout=output.descriptor,
                stderr=output.descriptor,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            stop(process)


def open_gate(process: subprocess.Popen[bytes]) -> None:
    """Let a gated process begin."""
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has been killed meanwhile, which whoever waits for it will see


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


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
