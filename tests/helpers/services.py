"""Services for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.errors import CloseReason
from gserver.service import Service

__all__ = ["Diary", "Gate", "Keeper", "make_echo_lines", "make_lines"]


def make_lines(on_message: Callable[[bytes, Connection], Any], **hooks: Any) -> Service:
    """Return a service for lines."""
    return Service(on_message, Lines, **hooks)


def make_echo_lines(**hooks: Any) -> Service:
    """Return a service that echoes lines."""
    return make_lines(lambda line, conn: line, **hooks)


class Gate:
    """A service whose handlers block for lines that begin with `wait` until `opened` is set; others reply at once."""

    def __init__(self) -> None:
        self.opened = Event()
        self.waiting = 0

    def service(self, **hooks: Any) -> Service:
        return make_lines(self.on_message, **hooks)

    def on_message(self, line: bytes, conn: Connection) -> bytes:
        if line.startswith(b"wait"):
            self.block()
        return b"did " + line

    def block(self) -> None:
        self.waiting += 1
        try:
            self.opened.wait()
        finally:
            self.waiting -= 1


class Diary:
    """Records the calls of a service's hooks, in order, with the peer of the connection."""

    def __init__(self, open_s: float | None = None) -> None:
        self.entries: list[tuple[Any, str]] = []
        self._open_s = open_s

    def service(self) -> Service:
        return make_lines(self.on_message, on_open=self.on_open, on_close=self.on_close)

    def on_open(self, conn: Connection) -> None:
        if self._open_s is not None:
            gevent.sleep(self._open_s)
        self.entries.append((conn.peer, "open"))

    def on_message(self, line: bytes, conn: Connection) -> bytes:
        self.entries.append((conn.peer, line.decode()))
        return line

    def on_close(self, conn: Connection, reason: CloseReason) -> None:
        self.entries.append((conn.peer, f"close {reason.value}"))

    def of(self, peer: Any) -> list[str]:
        return [entry for connected, entry in self.entries if connected == peer]


class Keeper:
    """Keeps the accepted connections and the reasons of their closes; echoes lines."""

    def __init__(self) -> None:
        self.conns: list[Connection] = []
        self.gone: list[CloseReason] = []

    def service(self, on_message: Callable[[bytes, Connection], Any] | None = None) -> Service:
        handler = on_message or (lambda line, conn: line)
        return make_lines(handler, on_open=self.conns.append, on_close=lambda conn, reason: self.gone.append(reason))

    @property
    def conn(self) -> Connection:
        assert len(self.conns) == 1
        return self.conns[0]
