"""Sleeping until a moment, a signal or word on a socket, whichever comes first."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Wakeup"]


class Wakeup:
    """Takes over these signals, and calls who waits for a socket. Closes: on leaving its `with`."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers

    def __enter__(self) -> Wakeup:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._receiver, selectors.EVENT_READ)
        self._before: dict[signal.Signals, Any] = {
            number: signal.signal(number, lambda *_: None) for number in self._numbers
        }
        self._descriptor_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._descriptor_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._selector.close()
        self._receiver.close()
        self._sender.close()

    def watch(self, sock: socket.socket, call: Callable[[int], None], events: int = selectors.EVENT_READ) -> None:
        """Have `call` called with what a socket is ready for, whenever somebody waits; again: for other events."""
        try:
            self._selector.modify(sock, events, call)
        except KeyError:
            self._selector.register(sock, events, call)

    def forget(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)

    def wait(self, until_s: float) -> list[int]:
        """Until that moment of the monotonic clock, or a signal: those that came. Sockets are served meanwhile."""
        while True:
            signals = self.turn(until_s)
            if signals or time.monotonic() >= until_s:
                return signals

    def turn(self, until_s: float) -> list[int]:
        """The same, but no longer than until a socket was served."""
        signals: list[int] = []
        for key, events in self._selector.select(max(0.0, until_s - time.monotonic())):
            if key.fileobj is self._receiver:
                signals = [number for number in self._receiver.recv(64) if number in self._numbers]
            else:
                key.data(events)
        return signals
