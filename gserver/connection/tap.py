"""Taps: an observer of the application's bytes of one connection, as they are received and sent.

A connection without a tap costs nothing for it. To tap one, its class is exchanged for a subclass that passes what
receive() returns and what push() gets to the observers, and the connection is marked as sealed: the compiled message
loop then calls these two methods, as it does for TLS. Below TLS there is nothing to observe: the subclass of a
TlsConnection sees plaintext. The class is changed back when the last observer goes, or when the connection is closed.
Either may happen at any moment, also within a turn.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from gserver.connection.connection import Connection

__all__ = ["Observer", "tap", "untap"]


class Observer(Protocol):
    """Gets the bytes of connections. Its methods neither block nor raise: they are called within a turn."""

    def receiving(self, conn: Connection) -> None:
        """The connection is about to receive: everything that was received before is decoded."""

    def received(self, conn: Connection, data: bytes) -> None:
        """Bytes were received; b"": the peer has closed its side."""

    def sent(self, conn: Connection, data: bytes) -> None:
        """Bytes are passed to the kernel, or to the outbox."""

    def closed(self, conn: Connection, unsent_bytes: int) -> None:
        """The connection is closed; the kernel has not accepted so many bytes of what was sent."""


class _Tapped:
    """The observers of a tapped connection, and whether it was sealed before."""

    __slots__ = ("observers", "was_sealed")

    def __init__(self, was_sealed: bool) -> None:
        self.observers: tuple[Observer, ...] = ()
        self.was_sealed = was_sealed


_tapped: dict[Connection, _Tapped] = {}
_tapped_kinds: dict[type[Connection], type[Connection]] = {}  # by the class that they are subclasses of


def tap(conn: Connection, observer: Observer) -> None:
    """Call `observer` from now on. Its handshakes must be complete, and it must not be closed."""
    tapped = _tapped.get(conn)
    if tapped is None:
        tapped = _tapped[conn] = _Tapped(conn.is_sealed)
        kind = type(conn)
        if kind not in _tapped_kinds:
            _tapped_kinds[kind] = _make_tapped(kind)
        conn.__class__ = _tapped_kinds[kind]
        conn.is_sealed = True
    tapped.observers += (observer,)


def untap(conn: Connection, observer: Observer) -> None:
    """Do not call `observer` any more. Does nothing if it is not called."""
    tapped = _tapped.get(conn)
    if tapped is not None:
        tapped.observers = tuple(each for each in tapped.observers if each is not observer)
        if not tapped.observers:
            _change_back(conn)


def _change_back(conn: Connection) -> _Tapped | None:
    tapped = _tapped.pop(conn, None)
    if tapped is not None:
        conn.__class__ = type(conn).__bases__[0]
        conn.is_sealed = tapped.was_sealed
    return tapped


def _observers_of(conn: Connection) -> tuple[Observer, ...]:
    tapped = _tapped.get(conn)
    return () if tapped is None else tapped.observers


def _make_tapped(kind: type[Connection]) -> type[Connection]:
    """The subclass of a class of connections. It has no slots, so that an instance can change its class.

    Its methods call those of `kind` by name: super() fails once the class is changed back.
    """
    plain: Any = kind

    class Tapped(plain):  # type: ignore[misc]  # the base is an argument
        __slots__ = ()

        def receive(self, max_bytes: int) -> bytes | None:
            for observer in _observers_of(self):
                observer.receiving(self)
            data: bytes | None = plain.receive(self, max_bytes)
            if data is not None and (data or max_bytes > 0):
                for observer in _observers_of(self):
                    observer.received(self, data)
            return data

        def push(self, data: bytes) -> None:
            # Before it is sent: the connection may be closed by it, which ends what is observed.
            if isinstance(data, bytes | bytearray | memoryview):
                copied = bytes(data)  # the same object if it is bytes
                for observer in _observers_of(self):
                    observer.sent(self, copied)
            plain.push(self, data)

        def _finish(self) -> None:
            unsent_bytes = 0 if self.outbox is None else self.outbox.size
            tapped = _change_back(self)
            try:
                plain._finish(self)
            finally:
                for observer in () if tapped is None else tapped.observers:
                    observer.closed(self, unsent_bytes)

    Tapped.__name__, Tapped.__qualname__, Tapped.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return cast(type[Connection], Tapped)
