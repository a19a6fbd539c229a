"""Deadlines: how long a connection may take for each step, and which deadline comes next. Pure.

    handshake    from accepted to the end of the PROXY header and the TLS handshake
    first byte   from accepted, or the end of the handshake, while neither side has sent anything
    message      from the first bytes of a message to its last: a slow drip does not prolong it
    handler      from the call of a handler to its return, if it blocks
    write        from one moment at which the peer took something of what is to be sent to the next
    idle         between two messages, with nothing left to send: since something came, or was sent
    read idle    outside of handlers: since something came, whatever was sent meanwhile
    age          from accepted; each connection draws its own

They are independent: each closes at its own time, whichever others run beside it. Before the first byte only that
deadline runs, and the age; where it is off, the idle ones run from the start. Within a message the message's deadline
stands in for idle, unless it is off.

No message sets a timer. A connection stands once on the wheel, at the first of its deadlines; when that comes it is
looked at, and stands at its next one, or in the time that a new connection has for its first byte if that is sooner. So
a busy connection costs a look in half a minute with the default settings, and closing late by up to a tick is all that
is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from gserver.errors import CloseReason
from gserver.limits.timer_wheel import NEVER

__all__ = ["Deadlines", "Waiting"]

# The wheel's tick is a fraction of the shortest deadline, and within these bounds.
TICKS_A_DEADLINE = 20
SHORTEST_TICK_S = 0.01
LONGEST_TICK_S = 0.25


class Waiting(Protocol):
    """What a connection is waiting for; moments are seconds of time.monotonic()."""

    @property
    def handshake_since(self) -> float | None: ...  # None: it is over
    @property
    def has_spoken(self) -> bool: ...  # something has come, or was sent
    @property
    def active_at(self) -> float: ...  # when something last came or was sent; at first, when it might have
    @property
    def received_at(self) -> float: ...  # when something last came; at first, when it might have
    @property
    def message_since(self) -> float | None: ...  # when a message began that is not complete
    @property
    def handler_since(self) -> float | None: ...  # when the handler was called that blocks; None: none does
    @property
    def stalled_since(self) -> float | None: ...  # when the peer last took something of what is still to be sent
    @property
    def retires_at(self) -> float: ...
    @property
    def is_listening(self) -> bool: ...  # nothing but the peer's next message is awaited


@dataclass(frozen=True)
class Deadlines:
    """How long each thing may take, in seconds; 0: for ever."""

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
        """How coarse the wheel may be, so that each deadline is met to a twentieth of the shortest."""
        of_messages = (self.message_s, self.handler_s, self.write_s)
        spans = (self.handshake_s, self.first_byte_s, self.idle_s, self.read_idle_s, *of_messages, self.max_age_s)
        shortest = min((span for span in spans if span), default=LONGEST_TICK_S * TICKS_A_DEADLINE)
        return min(LONGEST_TICK_S, max(SHORTEST_TICK_S, shortest / TICKS_A_DEADLINE))

    @property
    def fresh_s(self) -> float:
        """How long a connection need not be looked at for those deadlines that begin without any notice."""
        spans = (self.first_byte_s, self.idle_s, self.read_idle_s, self.max_age_s)
        return min((span for span in spans if span), default=NEVER)

    def retirement(self, accepted_at: float, chance: float) -> float:
        """When a connection that was accepted then is too old; `chance`, from 0 to 1, is its share of the jitter."""
        return accepted_at + self.max_age_s + chance * self.max_age_jitter_s if self.max_age_s else NEVER

    def first(self, conn: Waiting) -> tuple[float, CloseReason]:
        """The first of the deadlines that hold for `conn` as it is, and what passing it means."""
        return min(self._all(conn), key=lambda deadline: deadline[0])

    def _all(self, conn: Waiting) -> Iterator[tuple[float, CloseReason]]:
        yield conn.retires_at, CloseReason.AGED
        if conn.handshake_since is not None:
            yield _after(conn.handshake_since, self.handshake_s), CloseReason.HANDSHAKE_TIMEOUT
            return
        if conn.stalled_since is not None:
            yield _after(conn.stalled_since, self.write_s), CloseReason.WRITE_TIMEOUT
        if conn.handler_since is not None:
            yield _after(conn.handler_since, self.handler_s), CloseReason.HANDLER_TIMEOUT
        elif conn.is_listening:
            yield from self._of_a_listener(conn)

    def _of_a_listener(self, conn: Waiting) -> Iterator[tuple[float, CloseReason]]:
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
