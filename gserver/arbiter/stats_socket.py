"""What the server has counted, for whoever connects to its stats socket: one document of JSON, and end-of-file.

    {"version": "0.3", "time_s": 8123.5, "pid": 4711, "healthy": true, "problem": null,
     "workers": [{"pid": 4712, "age": 1, "generation": 0, "state": "serving", "stuck": false, <lags>, <counts>}, ...],
     "totals": {<counts>}}

    <lags>:   heartbeat_age_s, lag_s, lag_max_s, lag_histogram: {"0.001": 600, "0.002": 3, "2.048": 1}
    <counts>: accepted, open, messages, errors, received_bytes, sent_bytes, closed: {reason: how many}

A worker sends a heartbeat each second, from its event loop. heartbeat_age_s is the time since the last one, null before
the first. The worker is stuck once that is more than 5 s. The server is healthy if a worker serves that is not stuck;
problem is the reason why it is not.

lag_s is by how much the loop was late in the last second, or is late now. lag_max_s is the longest that the worker has
noticed since its start, and lag_histogram counts the seconds by their lag: its keys are upper bounds in seconds, each
twice the one before, "inf" the last; empty ones are left out.

Times are on the monotonic clock. Totals are those of all workers that there are and ever were. In each counts accepted
== open + sum(closed), though workers count meanwhile. Bytes are up to a second old, as a worker enters them.

Closes: close() closes everything and removes the path, if it is still this arbiter's.
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
from gserver.arbiter.scoreboard import HEARTBEAT_S, Place, Scoreboard
from gserver.arbiter.supervision import Children, Stage
from gserver.config.working_directory import absolute, moved_after_link, place_of
from gserver.counters import CELLS, ERRORS, MESSAGES, RECEIVED, SENT, Counters, snapshot
from gserver.errors import ConfigError
from gserver.process.unix_sockets import identity, remove_stale, short_path

__all__ = ["StatsSocket", "document", "read_stats"]

MODE = 0o600
BACKLOG = 16
# Readers that have not taken their document yet; one more, and the one that has had the longest time is given up.
MAX_READERS = 16
READ_BYTES = 64 * 1024
# Five heartbeats; long before the setting timeout, after which the arbiter kills a worker, is a client's patience over.
STUCK_S = 5.0


def document(scoreboard: Scoreboard, children: Children) -> dict[str, Any]:
    """The scoreboard in words."""
    places = [place for place in scoreboard.taken() if place.pid in children]
    counted = [snapshot(place.cells) for place in places]
    everybody = [snapshot(scoreboard.gone.cells), *counted]
    now = time.monotonic()
    workers = [_worker(place, cells, children, now) for place, cells in zip(places, counted, strict=True)]
    problem = _problem(workers, children.is_stopping)
    return {
        "version": gserver.__version__,
        "time_s": now,
        "pid": os.getpid(),
        "healthy": problem is None,
        "problem": problem,
        "workers": workers,
        "totals": _counts([sum(cells[cell] for cells in everybody) for cell in range(CELLS)]),
    }


def _worker(place: Place, cells: Sequence[int], children: Children, now: float) -> dict[str, Any]:
    child = children[place.pid]
    beat_at = place.beat_at
    age_s = max(0.0, now - beat_at) if beat_at else None
    return {
        "pid": child.pid,
        "age": child.age,
        "generation": child.generation,
        "state": child.stage.value,
        "stuck": age_s is not None and age_s > STUCK_S,
        **_lags(place, age_s),
        **_counts(cells),
    }


def _lags(place: Place, age_s: float | None) -> dict[str, Any]:
    """A worker that stands still cannot write how late it is: its heartbeat shows it."""
    late_s = 0.0 if age_s is None else age_s - HEARTBEAT_S
    return {
        "heartbeat_age_s": age_s,
        "lag_s": max(place.lag_s, late_s),
        "lag_max_s": max(place.lag_max_s, late_s),
        "lag_histogram": {str(bound): count for bound, count in place.lag_histogram.items()},
    }


def _problem(workers: Sequence[dict[str, Any]], is_stopping: bool) -> str | None:
    """Why no client is served; None if some are."""
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
    """The arbiter's side, a part of its loop; without a path nobody can ask. Never blocks, whoever does not read.

    Args:
        selector: told of everything that is waited for; its data is what to call then.
    """

    def __init__(self, path: str | None, selector: selectors.BaseSelector) -> None:
        self._given = None if path is None else absolute(path)
        self.path = None if path is None else place_of(path)
        self._selector = selector
        self._listener: socket.socket | None = None
        self._unread: dict[socket.socket, bytes] = {}  # reader -> what the kernel has not taken for it yet
        self._made: tuple[int, int] | None = None  # what stat() said of the path

    def open(self, scoreboard: Scoreboard, children: Children, suffix: str = "") -> None:
        """Listen, at the path with `suffix` behind it; ConfigError if that cannot be."""
        if self.path is None:
            return
        assert self._given is not None
        self._given += suffix
        self.path += suffix
        self._scoreboard, self._children = scoreboard, children
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self.path) as address:
                remove_stale(address)
                listener.bind(address)
                self._made = identity(address)
                os.chmod(address, MODE)  # before it listens: until then nobody can connect
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise ConfigError(f"stats socket {self.path!r} cannot be made: {error.strerror or error}") from error
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def rename(self, path: str | None) -> None:
        """Stand at another path from now on."""
        self._given = None if path is None else absolute(path)
        old, self.path = self.path, None if path is None else place_of(path)
        if old is not None and self.path is not None and self._is_own(old):
            os.rename(old, self.path)

    def follow(self) -> None:
        """Stand where the path leads now, if a link in it has been moved, and that place is free."""
        if self._given is not None and self.path is not None and self._is_own(self.path):
            self.path = moved_after_link(self.path, self._given)

    def close(self) -> None:
        self.leave_to_arbiter()
        if self.path is not None and self._is_own(self.path):
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def leave_to_arbiter(self) -> None:
        """In a child: drop the sockets, or nobody would see their end. The selector is the arbiter's, and not told."""
        for each in [*self._unread, *([self._listener] if self._listener else [])]:
            each.close()
        self._unread.clear()
        self._listener = None

    def _is_own(self, path: str) -> bool:
        try:
            return self._made is not None and identity(path) == self._made
        except OSError:
            return False

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            reader, _ = self._listener.accept()
        except OSError:  # it is gone already, or there is no descriptor for it
            return
        reader.setblocking(False)
        if len(self._unread) >= MAX_READERS:
            self._end(next(iter(self._unread)))
        self._unread[reader] = json.dumps(document(self._scoreboard, self._children)).encode() + b"\n"
        self._selector.register(reader, selectors.EVENT_WRITE, lambda: self._write(reader))
        self._write(reader)

    def _write(self, reader: socket.socket) -> None:
        if reader not in self._unread:  # given up in the same turn of the loop
            return
        try:
            taken = reader.send(self._unread[reader])
        except BlockingIOError:
            return
        except OSError:
            taken = len(self._unread[reader])
        self._unread[reader] = self._unread[reader][taken:]
        if not self._unread[reader]:
            self._end(reader)

    def _end(self, reader: socket.socket) -> None:
        self._selector.unregister(reader)
        del self._unread[reader]
        reader.close()


def read_stats(path: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """The document of the server whose stats socket is at `path`; ConfigError says in one line why there is none."""
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
