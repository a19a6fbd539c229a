"""The stacks of greenlets, with their connections: of all greenlets for the log, or of waiting handlers in pieces.

The first is for USR2, and for a worker that is about to be aborted. It finds the greenlets by the garbage collector,
which alone knows them all. With 15,000 connections, 3,000 of them with a waiting handler, that stops the worker for
0.1 s, and the next full collection, of objects that were frozen before, for 0.06 to 0.2 s.

The pieces are for a worker that goes on serving. They come from the connections alone, so greenlets that the
application has started for itself are not in them.
"""

from __future__ import annotations

import gc
import linecache
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

from greenlet import getcurrent, greenlet

from gserver.connection.connection import Connection
from gserver.connection.tasks import greenlets_of
from gserver.engine.schedulers import Runner

__all__ = ["PIECE_BYTES", "describe_stacks", "stack_pieces"]

MAX_GREENLETS = 1000
#: The most bytes of a piece, in UTF-8.
PIECE_BYTES = 32 * 1024
# So many connections are checked for a piece, also if few of them have a handler that waits.
PIECE_CONNECTIONS = 2000
# A piece ends after so many stacks: 1.3 ms of work.
PIECE_STACKS = 32
# Of deeper recursion, only the innermost frames are shown. With MAX_LINE_BYTES a stack always fits a piece.
MAX_FRAMES = 60
MAX_LINE_BYTES = 256


def describe_stacks(connections: Iterable[Connection], running: FrameType | None) -> str:
    """Return the stacks of the running greenlet (`running`) and of the waiting ones, as text.

    Idle greenlets, such as parked runners, are only counted. At most 1,000 waiting greenlets are shown.
    """
    serves = {id(each): conn for conn in connections for each in greenlets_of(conn)}
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


def stack_pieces(connections: Iterable[Connection]) -> Iterator[str]:
    """Yield the stacks of the handlers and tasks that wait, with their connections, in texts of at most PIECE_BYTES.

    The caller lets other greenlets run between two pieces; each is made in about a millisecond. A piece is "" if no
    connection that was checked for it has a handler that waits. The last one has the totals. Each stack is that of the
    moment in which its piece is made. It shows at most 60 frames.
    """
    everyone = list(connections)
    shown = 0
    for start in range(0, len(everyone), PIECE_CONNECTIONS):
        stacks: list[bytes] = []
        for conn in everyone[start : start + PIECE_CONNECTIONS]:
            for each in greenlets_of(conn):
                if each is getcurrent() or not each:
                    continue
                stack = _stack_of(conn, each)
                if len(stacks) == PIECE_STACKS or sum(map(len, stacks)) + len(stack) > PIECE_BYTES:
                    yield b"".join(stacks).decode()
                    stacks = []
                stacks.append(stack)
                shown += 1
        yield b"".join(stacks).decode()
    yield f"{shown} handlers wait, of {len(everyone)} connections\n"


def _stack_of(conn: Connection, runner: greenlet) -> bytes:
    frames: list[FrameType] = []
    frame = runner.gr_frame
    while frame is not None and len(frames) < MAX_FRAMES:
        frames.append(frame)
        frame = frame.f_back
    lines = [f"Waiting greenlet{_connection_of(runner, {id(runner): conn})}:"]
    lines += ["  ..."] * (frame is not None)
    for each in reversed(frames):
        code, number = each.f_code, each.f_lineno
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}')
        source = linecache.getline(code.co_filename, number, each.f_globals).strip()
        lines += [f"    {source}"] * bool(source)
    return b"".join(_cut(line) + b"\n" for line in lines)


def _cut(line: str) -> bytes:
    """The line in UTF-8, of at most MAX_LINE_BYTES."""
    data = line.encode("utf-8", "backslashreplace")
    return data if len(data) <= MAX_LINE_BYTES else data[:MAX_LINE_BYTES].decode("utf-8", "ignore").encode()
