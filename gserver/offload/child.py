"""What runs in a process of the pool: a fresh interpreter, which is not patched.

The worker executes this file. It uses only the standard library, so that the process starts fast and holds nothing of
the server. A request is a pickled pair (function, arguments), a reply a pickled pair (whether it returned, value).
The process ends when the worker closes its end of the socket, and the kernel kills it when the worker has ended.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["HEADER_BYTES", "main", "reply_to"]

_PR_SET_PDEATHSIG = 1
#: A frame is the length of its body in so many bytes, big-endian, and the body.
HEADER_BYTES = 8
# A process group or a control group gets these when the server stops. The worker decides when its pool ends.
_IGNORED = (signal.SIGINT, signal.SIGTERM)


def main(descriptor: int, parent: int) -> None:
    """Serve the worker with pid `parent` at the socket `descriptor`, until it is closed."""
    die_with(parent)
    close_others(descriptor)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(True)
    sock.set_inheritable(False)
    for number in _IGNORED:  # by a handler: programs that the function starts would inherit SIG_IGN
        signal.signal(number, lambda *_: None)
    os.register_at_fork(after_in_child=lambda: _leave_to_parent(sock))
    setting = receive(sock)
    if setting is None:
        return
    send(sock, set_up(**pickle.loads(setting)).encode())
    del setting
    while (request := receive(sock)) is not None:
        reply = reply_to(request)
        del request  # it may be large
        _flush()
        send(sock, reply)
        del reply


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent has ended, also if the parent gets SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(0)


def close_others(descriptor: int) -> None:
    """Close what was inherited beside the standard streams: descriptors that the application made inheritable."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, highest + 1)


def set_up(path: list[str], modules: list[str], title: str) -> str:
    """Take over the worker's sys.path, and import the modules; return why that failed, "" if it did not."""
    sys.path[:] = path
    try:
        from setproctitle import setproctitle
    except ImportError:
        pass
    else:
        setproctitle(title)
    failures = []
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:
            failures.append(f"{module} cannot be imported: {type(error).__name__}: {error}")
    return "; ".join(failures)


def reply_to(request: bytes | bytearray) -> bytes:
    """Call the function of a request; return the reply."""
    try:
        function, arguments = pickle.loads(request)
        value = function(*arguments)
    except BaseException as error:
        return _failure(error)
    try:
        return pickle.dumps((True, value), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return _failure(TypeError(f"the result, a {type(value).__name__}, cannot be pickled: {error}"))


def _failure(error: BaseException) -> bytes:
    """A reply with an exception; where it cannot be pickled, with its text."""
    where = "".join(traceback.format_exception(error)).rstrip()
    try:
        error.add_note(f"In a process of the pool (pid: {os.getpid()}):\n{where}")
        reply = pickle.dumps((False, error), pickle.HIGHEST_PROTOCOL)
        pickle.loads(reply)  # a class with arguments of its own may fail only here
        return reply
    except BaseException:
        return pickle.dumps((False, RuntimeError(where)), pickle.HIGHEST_PROTOCOL)


def receive(sock: socket.socket) -> bytearray | None:
    """Return the next frame; None if the worker has closed the socket."""
    header = _receive(sock, HEADER_BYTES)
    return None if header is None else _receive(sock, int.from_bytes(header, "big"))


def _receive(sock: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        try:
            count = sock.recv_into(rest)
        except OSError:
            return None
        if not count:
            return None
        rest = rest[count:]
    return data


def send(sock: socket.socket, body: bytes) -> None:
    try:
        sock.sendall(len(body).to_bytes(HEADER_BYTES, "big"))
        sock.sendall(body)
    except OSError:  # the worker has ended, or does not wait for it any more
        os._exit(0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the function has closed it
            continue


def _leave_to_parent(sock: socket.socket) -> None:
    """In a process that the function has forked."""
    sock.close()
    restore: Callable[[int, Any], Any] = signal.signal
    for number in _IGNORED:
        restore(number, signal.SIG_DFL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
