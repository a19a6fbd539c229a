"""Sleeps until a time, a signal, or until a socket is ready, whichever comes first."""

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
    """Waits for signals, and calls functions when their socket is ready.

    In its `with` it handles the signals `numbers` in place of their handlers, which it restores at the end.
    """

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
        """Call `call(events)` during wait() and wait_once() when the socket is ready for `events`.

        A second call for the same socket replaces the first.
        """
        try:
            self._selector.modify(sock, events, call)
        except KeyError:
            self._selector.register(sock, events, call)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching a socket, if it is watched."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)

    def wait(self, until_s: float) -> list[int]:
        """Wait until this time of the monotonic clock or a signal, and serve sockets; return the signals that came."""
        while True:
            signals = self.wait_once(until_s)
            if signals or time.monotonic() >= until_s:
                return signals

    def wait_once(self, until_s: float) -> list[int]:
        """Like wait(), but also return, with [], after sockets were served."""
        signals: list[int] = []
        for key, events in self._selector.select(max(0.0, until_s - time.monotonic())):
            if key.fileobj is self._receiver:
                signals = [number for number in self._receiver.recv(64) if number in self._numbers]
            else:
                key.data(events)
        return signals
