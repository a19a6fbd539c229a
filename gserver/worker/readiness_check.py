"""Whether the application becomes ready: ready() and the probe, in a worker and, for --check-config, without a server.

--check-config does it in a child process: a patched interpreter, and the threads and processes that an application may
have started, end with it.
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
from collections.abc import Callable
from typing import Any, NoReturn

from gserver.errors import ConfigError
from gserver.user_errors import described as told

__all__ = ["ReadyFailed", "be_ready", "try_start"]

#: What a child may write of its failure, in bytes: what a pipe takes at once.
MAX_BYTES = 4096
# What an application gets to end by itself, once it is known whether it can be served.
END_S = 2.0
# By how much a child may be late: whoever waits for it must not end it before it has told what it waited for.
LATE_S = 1.0


class ReadyFailed(ConfigError):
    """ready() raised; the cause is what it raised."""


def be_ready(served: Any, timeout_s: float | None, began_at: float | None = None) -> None:
    """Call ready(), then send the probe, if there is one. ReadyFailed or ConfigError where that fails.

    Args:
        timeout_s: how long the probe may take; None: as long as it likes.
        began_at: when the timeout began, on time.monotonic()'s clock; None: with the probe.
    """
    from gserver.service import Service, StreamService
    from gserver.worker.readiness_probe import probe

    if not isinstance(served, Service | StreamService):
        return
    if served.ready is not None:
        try:
            served.ready()
        except BaseException as error:
            raise ReadyFailed(f"ready() raised {told(error)}") from error
    probe(served, timeout_s, 0.0 if began_at is None else time.monotonic() - began_at)


def try_start(name: str, load: Callable[[], Any], timeout_s: float | None) -> None:
    """Start an application as a worker would, in a child process; ConfigError is one line that says where it fails.

    Args:
        name: what it is called in the line.
        load: called in the child, returns what is to be served. What it raises is told.
        timeout_s: how long the start may take; None: as long as it likes.
    """
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiver)
        _start(name, load, timeout_s, sender)
    os.close(sender)
    try:
        failure = _wait(name, pid, receiver, timeout_s)
    finally:
        os.close(receiver)
        for kill in (os.kill, os.killpg):  # what it has started goes with it
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if failure:
        raise ConfigError(failure)


def _start(name: str, load: Callable[[], Any], timeout_s: float | None, sender: int) -> NoReturn:
    """In the child: never return."""
    write, close = os.write, os.close  # as they are before gevent patches them
    served, failure, began_at = None, f"{name} has ended the process", time.monotonic()
    try:
        os.setpgid(0, 0)
        quiet = logging.getLogger("gserver")  # what goes wrong is told in one line
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        if "gevent" in sys.modules:  # a config file may have imported it
            import gevent

            gevent.reinit()
        served = load()
        be_ready(served, timeout_s, began_at)  # the parent waits for both together
        failure = ""
    except ConfigError as error:
        failure = str(error)
    except BaseException as error:
        failure = f"{name} cannot be imported: {told(error)}"
    finally:
        write(sender, failure.encode("utf-8", "backslashreplace")[:MAX_BYTES] or b"\n")
        close(sender)
        with contextlib.suppress(BaseException):
            if (stop := getattr(served, "stop", None)) is not None:
                stop()
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)


def _wait(name: str, pid: int, receiver: int, timeout_s: float | None) -> str:
    """What the child has written; it has ended by then, or has had the time to."""
    ending = os.pidfd_open(pid)  # readable when it ends
    try:
        if not select.select([receiver, ending], [], [], timeout_s and timeout_s + LATE_S)[0]:
            return f"{name} was not ready within {timeout_s:g} s"
        written = os.read(receiver, MAX_BYTES)
        if written:
            select.select([ending], [], [], END_S)
    finally:
        os.close(ending)
    return written.decode(errors="replace").strip() if written else f"{name} has ended the process"
