"""Bare handlers: runs gevent's handle(socket, address) as gevent does, and counts it.

An exception of a handler is passed on to gevent, or, in a worker, logged to the error log with the peer's address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import GreenletExit, getcurrent

from gserver.connection.connection import format_address
from gserver.errors import CloseReason
from gserver.user_errors import named

__all__ = ["BareHandlers"]

log = logging.getLogger("gserver.server")

_RETURNED = (
    "The bare handler %s returned %s, which is not sent: a bare handler sends on its socket. "
    "A function that returns replies is served as Service(%s, codec=...)"
)


class BareHandlers:
    """The sockets of bare handlers, and the greenlets of those that run.

    Args:
        ended: called as ended(sock, reason) once for each socket that was passed to began().
        logs_failures: True: log their exceptions, and do not pass them on to gevent.
    """

    def __init__(self, ended: Callable[[Any, CloseReason], None], logs_failures: bool) -> None:
        self._ended = ended
        self._logs_failures = logs_failures
        self._has_warned = False
        self._greenlets: dict[Any, Any] = {}
        self._addresses: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._greenlets)

    @property
    def sockets(self) -> list[Any]:
        return list(self._greenlets)

    def began(self, sock: Any, address: Any) -> None:
        self._greenlets[sock] = None
        self._addresses[sock] = address

    def address_of(self, sock: Any) -> Any:
        """The address of the peer; None once the handler has ended."""
        return self._addresses.get(sock)

    def run(self, handle: Callable[[Any, Any], Any], sock: Any, address: Any) -> None:
        """Call `handle` in the current greenlet, and end(sock) when it returns or raises."""
        if sock in self._greenlets:
            self._greenlets[sock] = getcurrent()
        reason = CloseReason.HANDLER_ERROR
        try:
            result = handle(sock, address)
            reason = CloseReason.FINISHED
            if result is not None and not self._has_warned:
                self._has_warned = True
                log.warning(_RETURNED, named(handle), type(result).__name__, named(handle))
        except GreenletExit:
            reason = CloseReason.KILLED
            raise
        except BaseException:
            if not self._logs_failures:
                raise
            peer = format_address(address)
            log.exception("handler failed for %s", peer, extra={"peer": peer})
        finally:
            self.end(sock, reason)

    def end(self, sock: Any, reason: CloseReason) -> None:
        if sock in self._greenlets:
            del self._greenlets[sock], self._addresses[sock]
            self._ended(sock, reason)

    def interrupt_all(self) -> int:
        """Kill the handlers; return how many there were."""
        running = list(self._greenlets.values())
        for greenlet in running:
            if greenlet is not None:
                gevent.kill(greenlet)
        return len(running)

    def close_all(self) -> None:
        """Close the sockets of handlers that did not end when they were killed."""
        for sock in list(self._greenlets):
            sock.close()
            self.end(sock, CloseReason.KILLED)
