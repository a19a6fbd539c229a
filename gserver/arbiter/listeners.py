"""Listening sockets. They belong to the arbiter; workers inherit them.

Closes: close_all() closes every listener and removes the paths of its unix sockets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterable

from gserver.bind import Bind, TcpBind, UnixBind
from gserver.errors import ConfigError

__all__ = ["bind_all", "close_all", "describe"]

# A server that was told to stop a moment ago may still hold the address.
ATTEMPTS = 5
RETRY_S = 1.0


def bind_all(binds: Iterable[Bind], backlog: int) -> list[socket.socket]:
    """Return a non-blocking listener for each bind; ConfigError, with none left open, if one cannot be had.

    While an address is in use it is tried again, up to 5 times, once a second.
    """
    listeners: list[socket.socket] = []
    try:
        for bind in binds:
            listeners.append(_bind_patiently(bind, backlog))
    except BaseException:
        close_all(listeners)
        raise
    return listeners


def _bind_patiently(bind: Bind, backlog: int) -> socket.socket:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _listen_tcp(bind, backlog) if isinstance(bind, TcpBind) else _listen_unix(bind, backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == ATTEMPTS:
                reason = error.strerror or str(error)
                raise ConfigError(f"cannot listen on {bind}: {reason}") from error
        time.sleep(RETRY_S)
    raise AssertionError("unreachable")


def _listen_tcp(bind: TcpBind, backlog: int) -> socket.socket:
    host = bind.host or "0.0.0.0"
    family, kind, proto, _, address = socket.getaddrinfo(host, bind.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return _listening(listener, backlog)
    except BaseException:
        listener.close()
        raise


def _listen_unix(bind: UnixBind, backlog: int) -> socket.socket:
    _remove_stale(bind.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(bind.path)
        return _listening(listener, backlog)
    except BaseException:
        listener.close()
        raise


def _listening(listener: socket.socket, backlog: int) -> socket.socket:
    listener.listen(backlog)
    listener.setblocking(False)  # several workers are woken for one connection, and only one gets it
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket that a dead server left at `path`; a live one, and anything that is no socket, stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            pass  # bind() will say what is wrong


def close_all(listeners: list[socket.socket]) -> None:
    """Close the listeners, and remove the paths of unix sockets."""
    for listener in listeners:
        path = listener.getsockname() if listener.family == socket.AF_UNIX else None
        listener.close()
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    listeners.clear()


def describe(listener: socket.socket) -> str:
    """Where a listener really listens, with the port that the kernel chose."""
    name = listener.getsockname()
    return str(UnixBind(name)) if isinstance(name, str) else str(TcpBind(name[0], name[1]))
