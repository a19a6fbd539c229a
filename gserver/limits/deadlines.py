"""Deadlines: the timeouts of a connection, and which of them expires next. Pure.

    handshake    from the accept to the end of the PROXY header and the TLS handshake
    first byte   from the accept, or the end of the handshake, until either side sends a byte
    message      from the first byte of a message to its last: receiving byte by byte does not extend it
    handler      from the call of a handler to its return, if it blocks
    write        from the last moment at which the peer accepted some of the bytes to be sent
    idle         between two messages, with nothing left to send: since bytes were last received or sent
    read idle    outside of handlers: since bytes were last received; sent bytes do not count
    age          from the accept; each connection draws its own
    deadline     set by the service for one connection: Connection.set_deadline()

The deadlines are independent: each closes the connection at its own time. Before the first byte, only the first byte
and the age have deadlines; if the first byte timeout is off, idle and read idle run from the start. Within a message,
the message timeout replaces idle, unless the message timeout is off.

No message sets a timer. A connection is on the wheel once, at its first deadline. At that time, the deadlines are
computed again, and the connection is placed at the next one, or after the first byte timeout of a new connection if
that is sooner. So a busy connection costs one check per 30 seconds with the default settings. The price is that a
connection may be closed up to one tick late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from gserver.errors import CloseReason
from gserver.limits.timer_wheel import NEVER, STEP_S

__all__ = ["Deadlines", "Waiting"]

# The tick of the wheel is this fraction of the shortest timeout, from STEP_S to LONGEST_TICK_S.
TICKS_A_DEADLINE = 20
LONGEST_TICK_S = 0.25


class Waiting(Protocol):
    """The state of a connection that its deadlines depend on; times are seconds of time.monotonic()."""

    @property
    def handshake_since(self) -> float | None:
        """When the handshake began; None: it is over."""

    @property
    def has_spoken(self) -> bool:
        """Whether bytes have been received or sent."""

    @property
    def active_at(self) -> float:
        """When bytes were last received or sent; at first, when they could be."""

    @property
    def received_at(self) -> float:
        """When bytes were last received; at first, when they could be."""

    @property
    def message_since(self) -> float | None:
        """When the incomplete message began; None: there is none."""

    @property
    def handler_since(self) -> float | None:
        """When the blocking handler was called; None: none blocks."""

    @property
    def stalled_since(self) -> float | None:
        """When the peer last accepted some of the bytes to be sent; None: all are sent."""

    @property
    def retires_at(self) -> float:
        """When the connection reaches its maximum age."""

    @property
    def deadline_at(self) -> float:
        """When the deadline is over that the service has set."""

    @property
    def is_listening(self) -> bool:
        """Whether the connection only waits for the next message: no handler and no task runs."""


@dataclass(frozen=True)
class Deadlines:
    """The timeouts, in seconds; 0: no limit."""

    handshake_s: float = 5.0
    first_byte_s: float = 30.0
    idle_s: float = 300.0
    message_s: float = 30.0
    handler_s: float = 60.0
    write_s: float = 30.0
    max_age_s: float = 0.0
    max_age_jitter_s: float = 0.0
    read_idle_s: float = 0.0

    @property
    def tick_s(self) -> float:
        """The tick of the wheel, in seconds: 1/20 of the shortest timeout, so that every deadline is met to that."""
        of_messages = (self.message_s, self.handler_s, self.write_s)
        spans = (self.handshake_s, self.first_byte_s, self.idle_s, self.read_idle_s, *of_messages, self.max_age_s)
        shortest = min((span for span in spans if span), default=LONGEST_TICK_S * TICKS_A_DEADLINE)
        return min(LONGEST_TICK_S, max(STEP_S, shortest / TICKS_A_DEADLINE))

    @property
    def fresh_s(self) -> float:
        """The maximum time between two checks of a connection, because these deadlines begin without an event."""
        spans = (self.first_byte_s, self.idle_s, self.read_idle_s, self.max_age_s)
        return min((span for span in spans if span), default=NEVER)

    def retirement(self, accepted_at: float, chance: float) -> float:
        """Return the time at which a connection reaches its maximum age; `chance`, 0 to 1: its share of the jitter."""
        return accepted_at + self.max_age_s + chance * self.max_age_jitter_s if self.max_age_s else NEVER

    def first(self, conn: Waiting) -> tuple[float, CloseReason]:
        """Return the first deadline of `conn` in its present state, and its close reason."""
        return min(self._all(conn), key=lambda deadline: deadline[0])

    def _all(self, conn: Waiting) -> Iterator[tuple[float, CloseReason]]:
        yield conn.retires_at, CloseReason.AGED
        yield conn.deadline_at, CloseReason.DEADLINE
        if conn.handshake_since is not None:
            yield _after(conn.handshake_since, self.handshake_s), CloseReason.HANDSHAKE_TIMEOUT
            return
        if conn.stalled_since is not None:
            yield _after(conn.stalled_since, self.write_s), CloseReason.WRITE_TIMEOUT
        if conn.handler_since is not None:
            yield _after(conn.handler_since, self.handler_s), CloseReason.HANDLER_TIMEOUT
        elif conn.is_listening:
            yield from self._while_listening(conn)

    def _while_listening(self, conn: Waiting) -> Iterator[tuple[float, CloseReason]]:
        if self.first_byte_s and not conn.has_spoken and conn.stalled_since is None:
            yield _after(conn.active_at, self.first_byte_s), CloseReason.FIRST_BYTE_TIMEOUT
            return
        yield _after(conn.received_at, self.read_idle_s), CloseReason.READ_IDLE_TIMEOUT
        if conn.message_since is not None and self.message_s:
            yield _after(conn.message_since, self.message_s), CloseReason.MESSAGE_TIMEOUT
        elif conn.stalled_since is None:
            yield _after(conn.active_at, self.idle_s), CloseReason.IDLE_TIMEOUT


def _after(moment: float, span_s: float) -> float:
    return moment + span_s if span_s else NEVER
