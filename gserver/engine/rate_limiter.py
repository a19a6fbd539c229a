"""Limits the messages and bytes that a connection may send in a second. Used only if such a limit is set.

A connection that exceeds its rate is throttled by default: it is not read until its average is within the limit again.
TCP's flow control then slows down the sender. The check comes after the turn, which is at most 64 KiB.
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

__all__ = ["RateLimitedMessageLoop", "RateLimiter", "StreamRateLimiter"]

# A throttled connection checks this often whether it has to close, and whether the rates are still the same.
LONGEST_SLEEP_S = 0.25


class RateLimiter:
    """Meters connections, each with token buckets of its own; a burst may be as large as the rate of one second.

    Args:
        max_message_rate: messages per second; 0: no limit.
        max_byte_rate: bytes per second; 0: no limit.
        action: what happens to a connection that exceeds a rate: "throttle", "refuse" or "close".
        notices: logs these connections; default: its own.
    """

    def __init__(
        self, max_message_rate: float, max_byte_rate: float, action: RateAction, notices: Notices | None = None
    ) -> None:
        self.action = action
        self._rates = (max_message_rate, max_byte_rate)
        self._notices = notices or Notices()
        self._is_over = False

    @classmethod
    def of(cls, limits: Limits, notices: Notices) -> RateLimiter | None:
        """Make the meter for `limits`; None if they contain no rate."""
        if not limits.max_message_rate and not limits.max_byte_rate:
            return None
        return cls(limits.max_message_rate, limits.max_byte_rate, limits.rate_action, notices)

    def end(self) -> None:
        """The rates are changed: nothing is metered any more, and connections that are throttled are read again."""
        self._is_over = True

    def charge(self, conn: Connection, messages: int, received_bytes: int) -> float:
        """Count what `conn` has sent; return how long it must not be read, in seconds."""
        if self._is_over:  # its turn, or its handler, had begun before
            return 0.0
        if conn.buckets is None or conn.buckets[0] is not self._rates:  # it is new, or the rates have changed
            conn.attach_buckets(
                (self._rates, [TokenBucket(rate, max(rate, 1.0)) if rate else None for rate in self._rates])
            )
        now = time.monotonic()
        spent = zip(conn.buckets[1], (messages, received_bytes), strict=True)
        waits: list[float] = [bucket.spend(now, amount) for bucket, amount in spent if bucket is not None]
        return max(waits)

    def wait_unread(self, conn: Connection, seconds: float) -> None:
        """Block the calling greenlet for `seconds`, or until `conn` has to close, or the rates are changed."""
        until = time.monotonic() + seconds
        while conn.state is State.OPEN and not self._is_over and (left := until - time.monotonic()) > 0:
            gevent.sleep(min(left, LONGEST_SLEEP_S))

    def too_fast(self, conn: Connection) -> LimitExceeded:
        """Count `conn` for the log; return the limit that it exceeds."""
        limit = self.exceeded()
        self._notices.limit(THROTTLED if self.action == "throttle" else CLOSED, conn, limit)
        return limit

    def exceeded(self) -> LimitExceeded:
        """Return the error for a connection that exceeds a rate; it names the rates and their settings."""
        messages, received_bytes = self._rates
        parts = [f"{messages:g} messages"] * bool(messages) + [f"{received_bytes:g} bytes"] * bool(received_bytes)
        settings = ["max_message_rate"] * bool(messages) + ["max_byte_rate"] * bool(received_bytes)
        text = f"more than {' or '.join(parts)} a second"
        return LimitExceeded(text, CloseReason.RATE_LIMIT, ", ".join(settings))


class StreamRateLimiter:
    """The throttle of stream handlers, called after each receive. It counts the messages since the receive before."""

    def __init__(self, meter: RateLimiter) -> None:
        self._meter = meter

    def end(self) -> None:
        self._meter.end()

    def __call__(self, conn: StreamConnection, received_bytes: int) -> None:
        wait_s = self._meter.charge(conn, conn.take_unmetered_messages(), received_bytes)
        if wait_s > 0:
            limit = self._meter.too_fast(conn)
            if self._meter.action != "throttle":
                raise limit
        self._meter.wait_unread(conn, wait_s)


class RateLimitedMessageLoop(MessageLoop):
    """A message loop that throttles, answers or closes a connection that is too fast, after its turn."""

    def __init__(self, service: Service, counters: Counters, fairness: Fairness, meter: RateLimiter) -> None:
        super().__init__(service, counters, fairness)
        self._meter = meter

    def retire(self) -> None:
        super().retire()
        self._meter.end()

    def serve(self, conn: Connection) -> None:
        messages, received_bytes = conn.messages, conn.received_bytes
        super().serve(conn)
        wait_s = self._meter.charge(conn, conn.messages - messages, conn.received_bytes - received_bytes)
        if wait_s > 0 and conn.state is State.OPEN:
            self._is_too_fast(conn, wait_s)

    def _is_too_fast(self, conn: Connection, wait_s: float) -> None:
        limit = self._meter.too_fast(conn)
        if self._meter.action == "close":
            conn.close(CloseReason.RATE_LIMIT)
        elif self._meter.action == "refuse":
            self.dismiss(conn, limit)
        else:
            try:
                self._meter.wait_unread(conn, wait_s)
            except Killed:
                conn.abort(CloseReason.KILLED)
                raise
