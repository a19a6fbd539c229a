"""Bare handlers: gevent's handle(socket, address) runs as gevent runs it, and is counted.

Only what it raises does not go where gevent sends it: a SystemExit would end the process, with all other connections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import GreenletExit, getcurrent

from gserver.connection import format_address
from gserver.errors import CloseReason
from gserver.guard import interrupt_program

__all__ = ["BareHandlers"]

log = logging.getLogger("gserver.server")


class BareHandlers:
    """The sockets that bare handlers have, and their greenlets once they run.

    Args:
        ended: called as ended(sock, reason) once for each socket that began().
    """

    def __init__(self, ended: Callable[[Any, CloseReason], None]) -> None:
        self._ended = ended
        self._greenlets: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._greenlets)

    @property
    def sockets(self) -> list[Any]:
        return list(self._greenlets)

    def began(self, sock: Any) -> None:
        self._greenlets[sock] = None

    def run(self, handle: Callable[[Any, Any], Any], sock: Any, address: Any) -> None:
        """Call `handle`; what it raises is logged with the peer's address."""
        if sock in self._greenlets:
            self._greenlets[sock] = getcurrent()
        reason = CloseReason.HANDLER_ERROR
        try:
            handle(sock, address)
            reason = CloseReason.FINISHED
        except GreenletExit:
            reason = CloseReason.KILLED
            raise
        except BaseException as error:
            log.exception("handler failed for %s", format_address(address))
            interrupt_program(error)
        finally:
            self.end(sock, reason)

    def end(self, sock: Any, reason: CloseReason) -> None:
        if sock in self._greenlets:
            del self._greenlets[sock]
            self._ended(sock, reason)

    def interrupt_all(self) -> int:
        """Kill them; return how many there were."""
        running = list(self._greenlets.values())
        for greenlet in running:
            if greenlet is not None:
                gevent.kill(greenlet)
        return len(running)

    def close_all(self) -> None:
        """Close the sockets of those that would not be killed."""
        for sock in list(self._greenlets):
            sock.close()
            self.end(sock, CloseReason.KILLED)
