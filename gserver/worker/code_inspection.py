"""What the code of this worker is doing, for the control socket: the stacks of handlers that wait, and profiles.

Both are rows of text: parts of at most ROW_CHARACTERS, so that each fits into a message of the channel, and at the end
an object with a summary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gevent

from gserver.connection.connection import Connection
from gserver.worker.inspection import Refused
from gserver.worker.profiler import CannotProfile, Profile, Profiler
from gserver.worker.stack_dump import stack_pieces

__all__ = ["ROW_CHARACTERS", "CodeInspection"]

# In JSON a character has twelve bytes at most, and a row may have 30 KiB: see gserver.worker.inspection.
ROW_CHARACTERS = 2000
POLL_S = 0.2


class CodeInspection:
    """Answers the questions "stacks" and "profile".

    Args:
        connections: returns the connections of this worker.
        served: the applications.
    """

    def __init__(self, connections: Callable[[], Iterable[Connection]], served: Iterable[object]) -> None:
        self._connections = connections
        self._profiler = Profiler(*served)
        self.subjects: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Any]]] = {
            "stacks": self._stacks,
            "profile": self._profile,
        }

    def _stacks(self, arguments: Mapping[str, Any]) -> Iterator[Any]:
        for piece in stack_pieces(self._connections()):
            yield None
            yield from _parts(piece)

    def _profile(self, arguments: Mapping[str, Any]) -> Iterator[Any]:
        """Sample, and return the collapsed stacks; None while it lasts. Ends early if nobody asks for the rest."""
        try:
            self._profiler.start(arguments["seconds"])
        except CannotProfile as error:
            raise Refused(str(error)) from None
        profile: Profile | None = None
        try:
            until = time.monotonic() + arguments["seconds"]
            while (left := until - time.monotonic()) > 0:
                gevent.sleep(min(POLL_S, left))
                yield None
        finally:
            profile = self._profiler.stop()
        for line in profile.lines():
            yield from _parts(f"{line}\n")
        yield {
            "seconds": profile.seconds,
            "interval_s": profile.interval_s,
            "cpu_s": profile.cpu_s,
            "samples": profile.samples,
            "idle": profile.idle,
            "overflowed": profile.overflowed,
        }


def _parts(text: str) -> Iterator[str]:
    return (text[start : start + ROW_CHARACTERS] for start in range(0, len(text), ROW_CHARACTERS))
