"""Checks that the application is ready: calls ready() and sends the probe. In a worker, and for --check-config.

--check-config runs the check in a child process, so that monkey-patching, threads and processes of the application end
with it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from gserver.errors import ConfigError
from gserver.user_errors import described

__all__ = ["ReadyFailed", "check_ready", "try_start"]

Load = Callable[[], Mapping[str, Any]]
Check = Callable[[Mapping[str, Any], float], None]

#: The limit of a failure message in bytes: a pipe takes so much at once.
MAX_BYTES = 4096
# How long the application may take to end by itself after the check.
END_S = 2.0
# How much longer the parent waits than the child, so that the child can report its own timeout.
LATE_S = 1.0


class ReadyFailed(ConfigError):
    """ready() has raised an exception, which is the cause of this one."""


def check_ready(
    served: Any, timeout_s: float | None, began_at: float | None = None, *, listener_name: str = ""
) -> None:
    """Call ready(), then send the probe, if there is one. ReadyFailed or ConfigError if that fails.

    Args:
        timeout_s: how long the probe may take, in seconds; None: no limit.
        began_at: when the timeout began, on time.monotonic()'s clock; None: with the probe.
        listener_name: conn.listener of the probe's connection.
    """
    from gserver.service import Service, StreamService
    from gserver.worker.readiness_probe import probe

    if not isinstance(served, Service | StreamService):
        return
    if served.ready is not None:
        try:
            served.ready()
        except BaseException as error:
            raise ReadyFailed(f"ready() raised {described(error)}") from error
    used_s = 0.0 if began_at is None else time.monotonic() - began_at
    probe(served, timeout_s, used_s, listener_name=listener_name)


def try_start(name: str, load: Load, check: Check, timeout_s: float | None) -> None:
    """Start applications like a worker, but in a child process; ConfigError with one line if that fails.

    Args:
        name: the name of the applications in that line.
        load: called in the child, returns the applications by their texts. The line reports what it raises.
        check: called in the child with the applications, and with the time at which the start began.
        timeout_s: how long the start may take, in seconds; None: no limit.
    """
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiver)
        _start_in_child(name, load, check, sender)
    os.close(sender)
    try:
        failure = _wait_for_result(name, pid, receiver, timeout_s)
    finally:
        os.close(receiver)
        for kill in (os.kill, os.killpg):  # together with the processes that it has started
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if failure:
        raise ConfigError(failure)


def _start_in_child(name: str, load: Load, check: Check, sender: int) -> NoReturn:
    """In the child: start the applications, write the failure into the pipe, and exit."""
    write, close = os.write, os.close  # the originals, before gevent patches them
    served: Mapping[str, Any] = {}
    failure, began_at = f"{name} has ended the process", time.monotonic()
    try:
        os.setpgid(0, 0)
        logger = logging.getLogger("gserver")  # a failure is reported in one line only
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        if "gevent" in sys.modules:  # a config file may have imported it
            import gevent

            gevent.reinit()
        served = load()
        check(served, began_at)  # the timeout is for load() and the probes together
        failure = ""
    except ConfigError as error:
        failure = str(error)
    except BaseException as error:
        failure = f"{name} cannot be imported: {described(error)}"
    finally:
        write(sender, failure.encode("utf-8", "backslashreplace")[:MAX_BYTES] or b"\n")
        close(sender)
        with contextlib.suppress(BaseException):
            for each in served.values():
                if (stop := getattr(each, "stop", None)) is not None:
                    stop()
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _wait_for_result(name: str, pid: int, receiver: int, timeout_s: float | None) -> str:
    """The failure that the child has reported, "" if none. Waits up to END_S for the end of the child."""
    pidfd = os.pidfd_open(pid)  # readable when the child ends
    try:
        if not select.select([receiver, pidfd], [], [], timeout_s and timeout_s + LATE_S)[0]:
            return f"{name} was not ready within {timeout_s:g} s"
        written = os.read(receiver, MAX_BYTES)
        if written:
            select.select([pidfd], [], [], END_S)
    finally:
        os.close(pidfd)
    return written.decode(errors="replace").strip() if written else f"{name} has ended the process"
