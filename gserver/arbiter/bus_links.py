"""Links the workers whose application uses gserver.bus: a socket pair for each two of them.

A worker sends LINKS. It gets the ends of links to all workers that have sent LINKS before, and each of those gets the
other end. The arbiter keeps no end: when a worker dies, the others read end-of-file. No other process can connect.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence

from gserver.arbiter.channel import LINK, LINKED

__all__ = ["BusLinks"]

log = logging.getLogger("gserver.arbiter")

# Links that are made before the worker gets its ends: in one message.
AT_A_TIME = 100
#: Sends a message to the worker with this pid: kind, texts, descriptors. False if that is not possible.
Send = Callable[[int, str, Sequence[str], Sequence[int]], bool]


class BusLinks:
    """Knows which workers are linked."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._joined: dict[int, None] = {}

    def join(self, pid: int) -> None:
        """Link a worker with all others that have joined. Never blocks: a worker that does not read is left out."""
        others = [other for other in self._joined if other != pid]
        for first in range(0, len(others), AT_A_TIME):
            self._link(pid, others[first : first + AT_A_TIME])
        self._joined[pid] = None
        self._send(pid, LINKED, [], [])

    def worker_ended(self, pid: int) -> None:
        self._joined.pop(pid, None)

    def _link(self, pid: int, others: Sequence[int]) -> None:
        """Send each of the others its end, and then the worker all of its own."""
        ends: dict[int, socket.socket] = {}
        try:
            for other in others:
                end, others_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                ends[other] = end
                with others_end:
                    if not self._send(other, LINK, [str(pid)], [others_end.fileno()]):
                        log.error("Cannot link worker %d with worker %d for the bus: it does not read", pid, other)
                        ends.pop(other).close()
        except OSError as error:
            log.error("Cannot link worker %d for the bus: %s", pid, error)
        if ends:
            self._send(pid, LINK, list(map(str, ends)), [end.fileno() for end in ends.values()])
        for end in ends.values():
            end.close()
