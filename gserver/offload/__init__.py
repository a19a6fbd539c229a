"""Run a function in a thread or in another process, so that it does not hold up the event loop.

    from gserver import offload

    def on_message(line: bytes, conn: Connection) -> bytes:
        digest = offload.thread(hashlib.pbkdf2_hmac, "sha256", line, b"salt", 600_000)
        picture = offload.process(resize, line, timeout=2.0)

A call blocks its greenlet only: a handler, a @stream function, or a task of conn.spawn(). It returns what the function
returns, and raises what the function raises. Each worker has its own pools; the settings offload_threads,
offload_processes, offload_queue and offload_max_tasks size them. Where no worker runs, in a program with a TcpServer,
threads work with the defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gserver.offload.errors import Died, Full, Timeout
from gserver.offload.pools import current

__all__ = ["Died", "Full", "Timeout", "process", "thread"]

Result = TypeVar("Result")


def thread(function: Callable[..., Result], /, *arguments: object, timeout: float | None = None) -> Result:
    """Call function(*arguments) in a thread of the operating system; return its result, or raise its exception.

    For functions that wait in code which gevent does not patch, or that compute without the GIL (hashlib, zlib, numpy).
    A function that computes in Python keeps the GIL: use process(). The function runs in a copy of the caller's
    contextvars context. Keyword arguments are passed with functools.partial.

    Args:
        timeout: seconds for the wait in the queue and the call together; None: no limit but handler_timeout.

    Raises:
        Full: as many calls wait already as the setting offload_queue allows.
        Timeout: the time is over. A call that still waits in the queue is never made. A thread cannot be killed, so a
            function that runs goes on, and its result is dropped; another thread takes its place, for at most
            offload_threads of them at a time.
        RuntimeError: the setting offload_threads is 0, or the worker is about to end.

    Example:
        import hashlib

        digest = offload.thread(hashlib.pbkdf2_hmac, "sha256", b"secret", b"salt", 1000)
        assert len(digest) == 32
    """
    result: Result = current().thread(function, arguments, timeout)
    return result


def process(function: Callable[..., Result], /, *arguments: object, timeout: float | None = None) -> Result:
    """Call function(*arguments) in a process of the pool; return its result, or raise its exception.

    For functions that compute in Python, that may crash, or that gevent's patching breaks: the processes are fresh
    interpreters, not patched. The function must be importable by its name, and arguments, result and exception must be
    picklable. Their pickling takes time in the event loop. Keyword arguments are passed with functools.partial.

    Args:
        timeout: seconds for the wait in the queue and the call together; None: no limit but handler_timeout.

    Raises:
        Full: as many calls wait already as the setting offload_queue allows.
        Timeout: the time is over. The process that ran the function is killed and replaced.
        Died: the process ended before it had sent a result. It is replaced.
        RuntimeError: the setting offload_processes is 0, which is its default, or the worker is about to end.

    Example:
        # With the setting offload_processes = 1
        assert offload.process(sum, [1, 2, 3], timeout=30) == 6
    """
    result: Result = current().process(function, arguments, timeout)
    return result
