"""The stats socket: every client that connects gets one JSON document, and end-of-file.

    {"version": "0.3", "time_s": 8123.5, "pid": 4711, "healthy": true, "problem": null, "ready": true,
     "not_ready_because": null,
     "workers": [{"pid": 4712, "age": 1, "generation": 0, "state": "serving", "stuck": false, "messages_per_s": 83.0,
                  "certificate_not_after": null, <lags>, <counts>}, ...],
     "totals": {<counts>}}

    <lags>:   heartbeat_age_s, lag_s, lag_max_s, lag_histogram: {"0.001": 600, "0.002": 3, "2.048": 1}
    <counts>: accepted, open, messages, errors, received_bytes, sent_bytes, closed: {reason: number},
              offload: {"thread": {"calls": 9, "refused": 0, "timeouts": 0}, "process": {..., "died": 0}}
              bus: {"published": 7, "delivered": 700, "dropped": 0}

The event loop of a worker writes a heartbeat each second. heartbeat_age_s is the time since the last one, null before
the first. A worker is stuck if that is more than 5 s. The server is healthy if clients are served: it does not stop,
and at least one serving worker is not stuck. Otherwise problem is the reason. It is ready if load balancers should send
clients here: see gserver.arbiter.health. Otherwise not_ready_because is the reason.

lag_s is the delay of the event loop in the last second, or its present delay if that is larger. lag_max_s is the
largest delay since the worker's start. lag_histogram counts seconds by their lag: its keys are upper bounds in seconds,
each twice the previous one, the last is "inf"; empty buckets are left out.

messages_per_s is the rate in the last second; 0 without a recent heartbeat. certificate_not_after is when the first of
the worker's certificates expires, in seconds since 1970; null without TLS.

Other times are on the monotonic clock. Totals are over all workers since the start of the arbiter. In each <counts>,
accepted == open + sum(closed), also while workers are counting. Byte counts are up to a second old: a worker adds them
up once per second.

Closes: close() closes everything, and removes the path if this arbiter has made it.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gserver
from gserver.arbiter.health import outage, readiness
from gserver.arbiter.scoreboard import HEARTBEAT_S, STUCK_S, Scoreboard, Slot
from gserver.arbiter.supervision import Stage, Supervision
from gserver.config.addresses import UnixBind
from gserver.counters import CELLS, ERRORS, MESSAGES, RECEIVED, SENT, Counters, bus_counts, offload_counts, snapshot
from gserver.errors import ConfigError
from gserver.process.unix_listener import UnixListener
from gserver.process.unix_sockets import short_path

__all__ = ["StatsSocket", "document", "read_stats"]

# The limit of clients that have not read their document yet. At one more, the one that connected first is closed.
MAX_READERS = 16
READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Health:
    is_serving: bool
    heartbeat_age_s: float | None


def document(scoreboard: Scoreboard, supervision: Supervision) -> dict[str, Any]:
    """The document, from the scoreboard and the records of the workers."""
    slots = [slot for slot in scoreboard.used_slots() if slot.pid in supervision]
    cells_of_workers = [snapshot(slot.cells) for slot in slots]
    all_cells = [snapshot(scoreboard.ended.cells), *cells_of_workers]
    now = time.monotonic()
    workers = [_worker(slot, cells, supervision, now) for slot, cells in zip(slots, cells_of_workers, strict=True)]
    health = [_Health(worker["state"] == Stage.SERVING.value, worker["heartbeat_age_s"]) for worker in workers]
    problem = outage(health, is_stopping=supervision.is_stopping)
    facts = scoreboard.server
    ready = readiness(
        health,
        is_stopping=supervision.is_stopping,
        is_leaving=supervision.is_leaving,
        is_taken_out=facts.is_taken_out,
        min_workers=facts.min_workers,
    )
    return {
        "version": gserver.__version__,
        "time_s": now,
        "pid": os.getpid(),
        "healthy": problem is None,
        "problem": problem,
        "ready": ready.is_good,
        "not_ready_because": None if ready.is_good else ready.reason,
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
        "messages_per_s": slot.message_rate if age_s is not None and age_s < 2 * HEARTBEAT_S else 0.0,
        "certificate_not_after": slot.certificate_not_after,
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
        "offload": offload_counts(counters.cells),
        "bus": bus_counts(counters.cells),
    }


class StatsSocket:
    """The arbiter's side, in the arbiter's loop. Never blocks, even if a client does not read.

    Args:
        path: where to listen; None: no stats socket.
        selector: all sockets are registered here, with the function to call when one is ready as data.
    """

    def __init__(self, path: str | None, selector: selectors.BaseSelector) -> None:
        self._listener = UnixListener("stats socket", _bind_of(path))
        self._selector = selector
        self._unread: dict[socket.socket, bytes] = {}  # client -> the bytes that are still to be sent

    def open(self, scoreboard: Scoreboard, supervision: Supervision, suffix: str = "") -> None:
        """Listen at the path plus `suffix`; ConfigError if that is not possible."""
        self._scoreboard, self._supervision = scoreboard, supervision
        if self._listener.open(suffix):
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def rename(self, path: str | None) -> None:
        """Move the socket to another path."""
        self._listener.rename(_bind_of(path))

    def follow(self) -> None:
        """Move the socket if a symbolic link in its path now leads elsewhere, and nothing is there."""
        self._listener.follow()

    def close(self) -> None:
        self._close_readers()
        self._listener.close()

    def leave_to_child(self) -> None:
        """In a child process: close the sockets, so that clients see end-of-file when the arbiter closes them.

        The selector is the arbiter's and is not changed.
        """
        self._close_readers()
        self._listener.leave_to_child()

    def _close_readers(self) -> None:
        for each in self._unread:
            each.close()
        self._unread.clear()

    def _accept(self) -> None:
        assert self._listener.socket is not None
        try:
            reader, _ = self._listener.socket.accept()
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


def _bind_of(path: str | None) -> UnixBind | None:
    return None if path is None else UnixBind(path)


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
