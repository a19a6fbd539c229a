"""Opening connections by the thousand: names are looked up once, and source addresses are taken in turns.

A source address has some 28,000 ports for each server address; on a loopback address of the server's, all of 127/8 can
be a source. The kernel chooses the port when it connects and not when it binds (IP_BIND_ADDRESS_NO_PORT), so that
one port can serve several servers.
"""

from __future__ import annotations

import _socket
import errno
import functools
import ipaddress
import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from gevent import socket as cooperative

__all__ = ["Dialer", "loopback_sources", "parse_sources"]

IP_BIND_ADDRESS_NO_PORT = 24
#: Sockets for which one source address suffices: connect() goes through the even ports first, and once those 14,000 are
#: taken each connect looks at every one of them, for milliseconds.
PORTS_OF_A_SOURCE = 10_000


def parse_sources(text: str) -> list[str]:
    """The addresses of FIRST-LAST or ADDRESS, separated by commas; ValueError names what is none."""
    return [source for part in text.split(",") if part.strip() for source in _range(part.strip())]


def _range(text: str) -> Iterator[str]:
    first_text, dash, last_text = text.partition("-")
    try:
        first = ipaddress.ip_address(first_text)
        last = ipaddress.ip_address(last_text) if dash else first
    except ValueError:
        raise ValueError(f"source address {text!r}, expected ADDRESS or FIRST-LAST") from None
    if first.version != last.version or not 0 <= int(last) - int(first) < 65536:
        raise ValueError(f"source addresses {text!r}, expected at most 65,536 of one kind, the first one first")
    return (str(ipaddress.ip_address(number)) for number in range(int(first), int(last) + 1))


def loopback_sources(host: str, sockets: int) -> list[str]:
    """Sources for `sockets` connections to `host`, where one does not suffice and `host` is on 127/8; else none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return []
    if sockets <= PORTS_OF_A_SOURCE or address.version != 4 or not address.is_loopback:
        return []
    count = -(-sockets // PORTS_OF_A_SOURCE)
    first = int(ipaddress.ip_address("127.0.1.1"))
    return [str(ipaddress.ip_address(first + number)) for number in range(count)]


class Dialer:
    """Opens connections to one server."""

    def __init__(self, address: tuple[str, int], sources: Sequence[str] = ()) -> None:
        self._address = address
        start = os.getpid() % max(1, len(sources))  # processes do not all begin with the same one
        self._sources = itertools.cycle([*sources[start:], *sources[:start]] or [""])

    def dial(self, timeout_s: float) -> _socket.socket:
        """A connected socket that does not block; OSError, as TimeoutError or ConnectionRefusedError, if there is none.

        What a name stands for is tried in order; the last failure is the one that is raised.
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
