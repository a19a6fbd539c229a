"""The stats socket: every client that connects gets one JSON document, and end-of-file.

    {"version": "0.3", "time_s": 8123.5, "pid": 4711, "healthy": true, "problem": null,
     "workers": [{"pid": 4712, "age": 1, "generation": 0, "state": "serving", "stuck": false, <lags>, <counts>}, ...],
     "totals": {<counts>}}

    <lags>:   heartbeat_age_s, lag_s, lag_max_s, lag_histogram: {"0.001": 600, "0.002": 3, "2.048": 1}
    <counts>: accepted, open, messages, errors, received_bytes, sent_bytes, closed: {reason: number}

The event loop of a worker writes a heartbeat each second. heartbeat_age_s is the time since the last one, null before
the first. A worker is stuck if that is more than 5 s. The server is healthy if at least one serving worker is not
stuck; otherwise problem is the reason.

lag_s is the delay of the event loop in the last second, or its present delay if that is larger. lag_max_s is the
largest delay since the worker's start. lag_histogram counts seconds by their lag: its keys are upper bounds in seconds,
each twice the previous one, the last is "inf"; empty buckets are left out.

Times are on the monotonic clock. Totals are over all workers since the start of the arbiter. In each <counts>, accepted
== open + sum(closed), also while workers are counting. Byte counts are up to a second old: a worker adds them up once
per second.

Closes: close() closes everything, and removes the path if this arbiter has made it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any

import gserver
from gserver.arbiter.scoreboard import HEARTBEAT_S, STUCK_S, Scoreboard, Slot
from gserver.arbiter.supervision import Stage, Supervision
from gserver.config.working_directory import absolute, moved_after_link, place_of
from gserver.counters import CELLS, ERRORS, MESSAGES, RECEIVED, SENT, Counters, snapshot
from gserver.errors import ConfigError
from gserver.process.unix_sockets import identity, remove_stale, short_path

__all__ = ["StatsSocket", "document", "read_stats"]

MODE = 0o600
BACKLOG = 16
# The limit of clients that have not read their document yet. At one more, the one that connected first is closed.
MAX_READERS = 16
READ_BYTES = 64 * 1024


def document(scoreboard: Scoreboard, supervision: Supervision) -> dict[str, Any]:
    """The document, from the scoreboard and the records of the workers."""
    slots = [slot for slot in scoreboard.used_slots() if slot.pid in supervision]
    cells_of_workers = [snapshot(slot.cells) for slot in slots]
    all_cells = [snapshot(scoreboard.ended.cells), *cells_of_workers]
    now = time.monotonic()
    workers = [_worker(slot, cells, supervision, now) for slot, cells in zip(slots, cells_of_workers, strict=True)]
    problem = _problem(workers, supervision.is_stopping)
    return {
        "version": gserver.__version__,
        "time_s": now,
        "pid": os.getpid(),
        "healthy": problem is None,
        "problem": problem,
        "workers": workers,
        "totals": _counts([sum(cells[cell] for cells in all_cells) for cell in range(CELLS)]),
    }


def _worker(slot: Slot, cells: Sequence[int], supervision: Supervision, now: float) -> dict[str, Any]:
    child = supervision[slot.pid]
    heartbeat_at = slot.heartbeat_at
    age_s = max(0.0, now - heartbeat_at) if heartbeat_at else None
    return {
        "pid": child.pid,
        "age": child.age,
        "generation": child.generation,
        "state": child.stage.value,
        "stuck": age_s is not None and age_s > STUCK_S,
        **_lags(slot, age_s),
        **_counts(cells),
    }


def _lags(slot: Slot, age_s: float | None) -> dict[str, Any]:
    """A blocked worker cannot write its lag, so the age of its heartbeat is counted as lag as well."""
    late_s = 0.0 if age_s is None else age_s - HEARTBEAT_S
    return {
        "heartbeat_age_s": age_s,
        "lag_s": max(slot.lag_s, late_s),
        "lag_max_s": max(slot.lag_max_s, late_s),
        "lag_histogram": {str(bound): count for bound, count in slot.lag_histogram.items()},
    }


def _problem(workers: Sequence[dict[str, Any]], is_stopping: bool) -> str | None:
    """Why no client is served; None if clients are served."""
    serving = [worker for worker in workers if worker["state"] == Stage.SERVING.value]
    if not serving:
        return "the server is stopping" if is_stopping else "no worker serves"
    if all(worker["stuck"] for worker in serving):
        latest_s = min(worker["heartbeat_age_s"] for worker in serving)
        return f"every worker that serves is stuck: the last heartbeat is {latest_s:.1f} s old"
    return None


def _counts(cells: Sequence[int]) -> dict[str, Any]:
    counters = Counters(list(cells))
    return {
        "accepted": counters.accepted,
        "open": counters.open,
        "messages": cells[MESSAGES],
        "errors": cells[ERRORS],
        "received_bytes": cells[RECEIVED],
        "sent_bytes": cells[SENT],
        "closed": {reason.value: count for reason, count in counters.closed.items()},
    }


class StatsSocket:
    """The arbiter's side, in the arbiter's loop. Never blocks, even if a client does not read.

    Args:
        path: where to listen; None: no stats socket.
        selector: all sockets are registered here, with the function to call when one is ready as data.
    """

    def __init__(self, path: str | None, selector: selectors.BaseSelector) -> None:
        self._given_path = None if path is None else absolute(path)
        self.path = None if path is None else place_of(path)
        self._selector = selector
        self._listener: socket.socket | None = None
        self._unread: dict[socket.socket, bytes] = {}  # client -> the bytes that are still to be sent
        self._identity: tuple[int, int] | None = None  # by stat() of the path

    def open(self, scoreboard: Scoreboard, supervision: Supervision, suffix: str = "") -> None:
        """Listen at the path plus `suffix`; ConfigError if that is not possible."""
        if self.path is None:
            return
        assert self._given_path is not None
        self._given_path += suffix
        self.path += suffix
        self._scoreboard, self._supervision = scoreboard, supervision
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self.path) as address:
                remove_stale(address)
                listener.bind(address)
                self._identity = identity(address)
                os.chmod(address, MODE)  # before listen(): no client can connect until then
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise ConfigError(f"stats socket {self.path!r} cannot be made: {error.strerror or error}") from error
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def rename(self, path: str | None) -> None:
        """Move the socket to another path."""
        self._given_path = None if path is None else absolute(path)
        old, self.path = self.path, None if path is None else place_of(path)
        if old is not None and self.path is not None and self._is_own(old):
            os.rename(old, self.path)

    def follow(self) -> None:
        """Move the socket if a symbolic link in its path now leads elsewhere, and nothing is there."""
        if self._given_path is not None and self.path is not None and self._is_own(self.path):
            self.path = moved_after_link(self.path, self._given_path)

    def close(self) -> None:
        self.leave_to_child()
        if self.path is not None and self._is_own(self.path):
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def leave_to_child(self) -> None:
        """In a child process: close the sockets, so that clients see end-of-file when the arbiter closes them.

        The selector is the arbiter's and is not changed.
        """
        for each in [*self._unread, *([self._listener] if self._listener else [])]:
            each.close()
        self._unread.clear()
        self._listener = None

    def _is_own(self, path: str) -> bool:
        try:
            return self._identity is not None and identity(path) == self._identity
        except OSError:
            return False

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            reader, _ = self._listener.accept()
        except OSError:  # the client has gone already, or no descriptor is left
            return
        reader.setblocking(False)
        if len(self._unread) >= MAX_READERS:
            self._close_reader(next(iter(self._unread)))
        self._unread[reader] = json.dumps(document(self._scoreboard, self._supervision)).encode() + b"\n"
        self._selector.register(reader, selectors.EVENT_WRITE, lambda: self._write(reader))
        self._write(reader)

    def _write(self, reader: socket.socket) -> None:
        if reader not in self._unread:  # it was closed in the same iteration of the loop
            return
        try:
            sent = reader.send(self._unread[reader])
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unread[reader])
        self._unread[reader] = self._unread[reader][sent:]
        if not self._unread[reader]:
            self._close_reader(reader)

    def _close_reader(self, reader: socket.socket) -> None:
        self._selector.unregister(reader)
        del self._unread[reader]
        reader.close()


def read_stats(path: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """Read the document from the stats socket at `path`; ConfigError with a message of one line if that fails."""
    deadline = time.monotonic() + timeout_s
    received = bytearray()
    try:
        with short_path(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as reader:
            reader.settimeout(timeout_s)
            reader.connect(address)
            while data := reader.recv(READ_BYTES):
                received += data
                reader.settimeout(max(0.001, deadline - time.monotonic()))
    except OSError as error:
        raise ConfigError(f"stats socket {path!r} cannot be read: {error.strerror or error}") from None
    try:
        found = json.loads(received)
        assert isinstance(found, dict)
        return found
    except (ValueError, AssertionError):
        raise ConfigError(f"stats socket {path!r} is not that of a gserver, or it ended meanwhile") from None
