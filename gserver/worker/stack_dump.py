"""The stacks of all greenlets with their connections, for the log: on USR2, and before a worker is aborted."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterable
from types import FrameType

from greenlet import getcurrent, greenlet

from gserver.connection.connection import Connection
from gserver.engine.schedulers import Runner

__all__ = ["describe_stacks"]

MAX_GREENLETS = 1000


def describe_stacks(connections: Iterable[Connection], running: FrameType | None) -> str:
    """Return the stacks of the running greenlet (`running`) and of the waiting ones, as text.

    Idle greenlets, such as parked runners, are only counted. At most 1,000 waiting greenlets are shown.
    """
    serves = {id(conn.runner): conn for conn in connections if conn.runner is not None}
    return "\n".join(_stacks(serves, getcurrent(), running))


def _all_objects() -> list[object]:
    gc.unfreeze()  # a worker calls gc.freeze() before it serves, and frozen objects are not listed
    return gc.get_objects()


def _stacks(serves: dict[int, Connection], current: greenlet | None, running: FrameType | None) -> Iterable[str]:
    yield f"Running greenlet{_connection_of(current, serves)}:\n{_format(running)}"
    waiting = [each for each in _all_objects() if isinstance(each, greenlet) and each and each is not current]
    parked = {each for each in waiting if isinstance(each, Runner) and each.conn is None}
    busy = [each for each in waiting if each not in parked]
    for each in busy[:MAX_GREENLETS]:
        yield f"Waiting greenlet{_connection_of(each, serves)}:\n{_format(each.gr_frame)}"
    yield f"{len(parked)} idle greenlets, {max(0, len(busy) - MAX_GREENLETS)} more waiting greenlets"


def _connection_of(one: greenlet | None, serves: dict[int, Connection]) -> str:
    conn = one.conn if isinstance(one, Runner) and one.conn is not None else serves.get(id(one))
    return "" if conn is None else f" for {conn!r}, {conn.messages} messages handled"


def _format(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame)) if frame else "  (no Python frame)\n"
