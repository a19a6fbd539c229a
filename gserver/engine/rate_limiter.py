"""Meters: how many messages and bytes a second a connection may send. Only there where such a limit is set.

A connection that has sent more is throttled by default: it is not read for as long as it is ahead, so that the sender
feels it by TCP's own means. The check comes after the turn: one turn is at most 64 KiB.
"""

from __future__ import annotations

import time

import gevent

from gserver.connection.connection import Connection, State
from gserver.connection.log_throttling import CLOSED, THROTTLED, Notices
from gserver.connection.stream_connection import StreamConnection
from gserver.connection.time_slice import Fairness
from gserver.counters import Counters
from gserver.engine.message_loop import MessageLoop
from gserver.errors import CloseReason, LimitExceeded
from gserver.fault_isolation import Killed
from gserver.limits.connection_limits import Limits, RateAction
from gserver.limits.token_bucket import TokenBucket
from gserver.service import Service

__all__ = ["Meter", "MeteredMessageLoop", "StreamMeter"]

# A throttled connection looks so often whether it is to end.
LONGEST_SLEEP_S = 0.25


class Meter:
    """The rates of connections, each by its own buckets; a second's worth may come at once."""

    def __init__(
        self, max_message_rate: float, max_byte_rate: float, action: RateAction, notices: Notices | None = None
    ) -> None:
        self.action = action
        self._rates = (max_message_rate, max_byte_rate)
        self._notices = notices or Notices()

    @classmethod
    def of(cls, limits: Limits, notices: Notices) -> Meter | None:
        """None if nothing is to be metered."""
        if not limits.max_message_rate and not limits.max_byte_rate:
            return None
        return cls(limits.max_message_rate, limits.max_byte_rate, limits.rate_action, notices)

    def charge(self, conn: Connection, messages: int, received_bytes: int) -> float:
        """How long `conn` must be left alone, in seconds, after it has sent this."""
        if conn.buckets is None:
            conn.buckets = [TokenBucket(rate, max(rate, 1.0)) if rate else None for rate in self._rates]
        now = time.monotonic()
        spent = zip(conn.buckets, (messages, received_bytes), strict=True)
        waits: list[float] = [bucket.spend(now, amount) for bucket, amount in spent if bucket is not None]
        return max(waits)

    def too_fast(self, conn: Connection) -> LimitExceeded:
        """Count `conn` for the log, and return why it is too fast."""
        limit = self.exceeded()
        self._notices.limit(THROTTLED if self.action == "throttle" else CLOSED, conn.peer, limit)
        return limit

    def exceeded(self) -> LimitExceeded:
        messages, received_bytes = self._rates
        parts = [f"{messages:g} messages"] * bool(messages) + [f"{received_bytes:g} bytes"] * bool(received_bytes)
        settings = ["max_message_rate"] * bool(messages) + ["max_byte_rate"] * bool(received_bytes)
        text = f"more than {' or '.join(parts)} a second"
        return LimitExceeded(text, CloseReason.RATE_LIMIT, ", ".join(settings))


def sit_out(conn: Connection, seconds: float) -> None:
    """Block the calling greenlet until then, or until `conn` is to end."""
    until = time.monotonic() + seconds
    while conn.state is State.OPEN and (left := until - time.monotonic()) > 0:
        gevent.sleep(min(left, LONGEST_SLEEP_S))


class StreamMeter:
    """What a stream handler's receiving goes through. The messages that it was handed count when it receives again."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __call__(self, conn: StreamConnection, received_bytes: int) -> None:
        messages = conn.messages - conn.metered_messages
        conn.metered_messages = conn.messages
        ahead_s = self._meter.charge(conn, messages, received_bytes)
        if ahead_s > 0:
            limit = self._meter.too_fast(conn)
            if self._meter.action != "throttle":
                raise limit
        sit_out(conn, ahead_s)


class MeteredMessageLoop(MessageLoop):
    """A turn after which a connection that is too fast is kept waiting, or closed."""

    def __init__(self, service: Service, counters: Counters, fairness: Fairness, meter: Meter) -> None:
        super().__init__(service, counters, fairness)
        self._meter = meter

    def serve(self, conn: Connection) -> None:
        messages, received_bytes = conn.messages, conn.received_bytes
        super().serve(conn)
        ahead_s = self._meter.charge(conn, conn.messages - messages, conn.received_bytes - received_bytes)
        if ahead_s > 0 and conn.state is State.OPEN:
            self._is_too_fast(conn, ahead_s)

    def _is_too_fast(self, conn: Connection, ahead_s: float) -> None:
        limit = self._meter.too_fast(conn)
        if self._meter.action == "close":
            conn.close(CloseReason.RATE_LIMIT)
        elif self._meter.action == "refuse":
            self.dismiss(conn, limit)
        else:
            try:
                sit_out(conn, ahead_s)
            except Killed:
                conn.abort(CloseReason.KILLED)
                raise
