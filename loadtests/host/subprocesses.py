"""Starts and stops the processes of a run: server, sampler and swarm. Each is stopped whatever happens."""

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
#: Waits for a line on standard input, then executes the command.
_GATE = ["sh", "-c", 'read -r _ && exec "$@"', "sh"]


class NotAnswering(Exception):
    """The server does not reply; the text is one line for the user."""


def free_port() -> int:
    """A free TCP port below the ephemeral ports.

    bind() to port 0 would return an ephemeral port, which the kernel may give to the next client or server.
    """
    for port in (*random.sample(range(_FIRST_PORT, _first_ephemeral_port()), 100), 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # the port is in use
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
    """Run a command within `with`, and stop it at the end; its output goes to a bounded log.

    It has its own session, so that a Ctrl-C at the terminal does not reach it.

    Args:
        cores: to run on; empty: any.
        is_gated: the process exists at once, but the command starts only with open_gate().
        environment: additional variables.
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
    """Start the command of a gated process."""
    assert process.stdin is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.close()
    except BrokenPipeError:
        pass  # the process was killed: its exit status shows that


def stop(process: subprocess.Popen[Any]) -> None:
    """Send TERM to a process, wait up to 15 seconds, then KILL what is left of its session."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also after a second Ctrl-C
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # no process is left
        process.wait()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within `with`, TERM and HUP raise KeyboardInterrupt as Ctrl-C does, so that no process is left behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup ignores HUP
                signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
