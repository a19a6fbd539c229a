"""Opens thousands of connections: looks names up once, and takes source addresses in turns.

A source address has some 28,000 ports for each server address. If the server is on a loopback address, every address of
127/8 can be a source. The kernel chooses the source port at connect() instead of bind() (IP_BIND_ADDRESS_NO_PORT), so
that one port can be used for several servers.
"""

from __future__ import annotations

import _socket
import errno
import functools
import itertools
import os
import socket
from collections.abc import Sequence
from typing import Any

from gevent import socket as cooperative

__all__ = ["Dialer"]

IP_BIND_ADDRESS_NO_PORT = 24


class Dialer:
    """Opens connections to one server.

    Args:
        address: name or IP address, and port.
        sources: addresses to connect from, in turns; default: the kernel chooses.
    """

    def __init__(self, address: tuple[str, int], sources: Sequence[str] = ()) -> None:
        self._address = address
        start = os.getpid() % max(1, len(sources))  # so that processes start with different ones
        self._sources = itertools.cycle([*sources[start:], *sources[:start]] or [""])

    def dial(self, timeout_s: float) -> _socket.socket:
        """Connect, and return the non-blocking socket; the caller closes it.

        The addresses of a name are tried in order. If all fail, the last failure is raised: an OSError, for example
        TimeoutError or ConnectionRefusedError.
        """
        error: OSError = OSError(f"{self._address[0]!r} stands for no address")
        for family, sockaddr in _lookup(*self._address):
            try:
                return _connected(family, sockaddr, next(self._sources), timeout_s)
            except OSError as failure:
                error = failure
        raise error


@functools.cache
def _lookup(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def _connected(family: int, sockaddr: tuple[Any, ...], source: str, timeout_s: float) -> _socket.socket:
    sock = _socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        failed = sock.connect_ex(sockaddr)
        if failed == errno.EINPROGRESS:
            late = TimeoutError(f"no connection within {timeout_s:g} s")
            cooperative.wait_write(sock.fileno(), timeout_s, late)
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
    except BaseException:
        sock.close()
        raise
    return sock
