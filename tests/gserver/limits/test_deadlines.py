"""Deadlines: which deadlines apply to a connection, and which one is the first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gserver.errors import CloseReason
from gserver.limits.deadlines import Deadlines
from gserver.limits.timer_wheel import NEVER

EACH = Deadlines(handshake_s=1, first_byte_s=2, idle_s=3, message_s=4, handler_s=5, write_s=6, max_age_s=100)
NO_SPANS = ("handshake_s", "first_byte_s", "idle_s", "message_s", "handler_s", "write_s")
NONE = Deadlines(**dict.fromkeys(NO_SPANS, 0))


@dataclass
class Waiting:
    """A connection that was accepted at time 0; nothing has happened since."""

    handshake_since: float | None = None
    has_spoken: bool = False
    active_at: float = 0.0
    received_at: float = 0.0
    message_since: float | None = None
    handler_since: float | None = None
    stalled_since: float | None = None
    retires_at: float = NEVER
    deadline_at: float = NEVER
    is_listening: bool = True


@pytest.mark.parametrize(
    ("conn", "due", "reason"),
    [
        (Waiting(handshake_since=10, is_listening=False), 11, CloseReason.HANDSHAKE_TIMEOUT),
        (Waiting(active_at=10), 12, CloseReason.FIRST_BYTE_TIMEOUT),
        (Waiting(active_at=10, has_spoken=True), 13, CloseReason.IDLE_TIMEOUT),
        (Waiting(active_at=10, has_spoken=True, message_since=9), 13, CloseReason.MESSAGE_TIMEOUT),
        (Waiting(handler_since=10, is_listening=False), 15, CloseReason.HANDLER_TIMEOUT),
        (Waiting(stalled_since=10), 16, CloseReason.WRITE_TIMEOUT),
        (Waiting(stalled_since=10, handler_since=1), 6, CloseReason.HANDLER_TIMEOUT),
        (Waiting(stalled_since=1, handler_since=10), 7, CloseReason.WRITE_TIMEOUT),
        (Waiting(active_at=10, retires_at=11), 11, CloseReason.AGED),
        (Waiting(handler_since=10, is_listening=False, retires_at=14), 14, CloseReason.AGED),
        (Waiting(active_at=10, deadline_at=11), 11, CloseReason.DEADLINE),
        (Waiting(handler_since=10, is_listening=False, deadline_at=14), 14, CloseReason.DEADLINE),
        (Waiting(active_at=10, has_spoken=True, deadline_at=20), 13, CloseReason.IDLE_TIMEOUT),
    ],
)
def test_the_first_deadline_depends_on_the_state(conn: Waiting, due: float, reason: CloseReason) -> None:
    assert EACH.first(conn) == (due, reason)


def test_a_handshake_has_no_other_deadline_but_the_age() -> None:
    assert EACH.first(Waiting(handshake_since=10)) == (11, CloseReason.HANDSHAKE_TIMEOUT)
    assert EACH.first(Waiting(handshake_since=10, retires_at=1)) == (1, CloseReason.AGED)


def test_the_earliest_of_several_deadlines_applies() -> None:
    """Checked for each deadline alone, and for each pair that can run together."""
    stalled = {"write_s": CloseReason.WRITE_TIMEOUT}
    silent = {"read_idle_s": CloseReason.READ_IDLE_TIMEOUT}
    together = [
        (Waiting(has_spoken=True), {"idle_s": CloseReason.IDLE_TIMEOUT, **silent}),
        (Waiting(has_spoken=True, message_since=0), {"message_s": CloseReason.MESSAGE_TIMEOUT, **silent}),
        (Waiting(has_spoken=True, stalled_since=0), {**stalled, **silent}),
        (Waiting(has_spoken=True, stalled_since=0, message_since=0), {"message_s": CloseReason.MESSAGE_TIMEOUT}),
        (
            Waiting(stalled_since=0, handler_since=0, is_listening=False),
            {"handler_s": CloseReason.HANDLER_TIMEOUT, **stalled},
        ),
    ]
    for conn, reasons in together:
        for short in reasons:
            for long in reasons:
                deadlines = Deadlines(**{**dict.fromkeys(NO_SPANS, 0.0), long: 9.0, short: 2.0})
                assert deadlines.first(conn) == (2.0, reasons[short]), (conn, short, long)


def test_before_the_first_byte_only_that_deadline_runs() -> None:
    deadlines = Deadlines(first_byte_s=20, idle_s=1, read_idle_s=1)

    assert deadlines.first(Waiting(active_at=10)) == (30, CloseReason.FIRST_BYTE_TIMEOUT)


def test_sent_bytes_extend_idle_but_not_read_idle() -> None:
    deadlines = Deadlines(idle_s=5, read_idle_s=7)

    conn = Waiting(has_spoken=True, active_at=100, received_at=90)
    assert deadlines.first(conn) == (97, CloseReason.READ_IDLE_TIMEOUT)


def test_idle_does_not_run_while_a_reply_waits_to_be_sent() -> None:
    deadlines = Deadlines(idle_s=1, write_s=30)

    assert deadlines.first(Waiting(has_spoken=True, stalled_since=0)) == (30, CloseReason.WRITE_TIMEOUT)


def test_a_connection_that_does_not_listen_has_no_deadline() -> None:
    assert EACH.first(Waiting(is_listening=False))[0] == NEVER


@pytest.mark.parametrize(
    "conn",
    [
        Waiting(),
        Waiting(has_spoken=True),
        Waiting(handshake_since=1),
        Waiting(message_since=1),
        Waiting(handler_since=1),
        Waiting(stalled_since=1),
    ],
)
def test_zero_is_no_limit(conn: Waiting) -> None:
    assert NONE.first(conn)[0] == NEVER


def test_without_a_deadline_for_messages_the_idle_one_holds_within_them() -> None:
    deadlines = Deadlines(message_s=0, idle_s=3)

    assert deadlines.first(Waiting(active_at=10, has_spoken=True, message_since=5)) == (13, CloseReason.IDLE_TIMEOUT)


def test_without_a_deadline_for_the_first_byte_the_idle_one_holds() -> None:
    assert Deadlines(first_byte_s=0, idle_s=3).first(Waiting(active_at=10)) == (13, CloseReason.IDLE_TIMEOUT)


@pytest.mark.parametrize(("chance", "at"), [(0.0, 110), (0.5, 120), (1.0, 130)])
def test_each_connection_draws_its_age(chance: float, at: float) -> None:
    assert Deadlines(max_age_s=100, max_age_jitter_s=20).retirement(10, chance) == at


def test_without_a_maximum_age_there_is_no_retirement() -> None:
    assert Deadlines(max_age_jitter_s=20).retirement(10, 0.5) == NEVER


@pytest.mark.parametrize(
    ("deadlines", "tick"),
    [(Deadlines(), 0.25), (Deadlines(idle_s=1), 0.05), (Deadlines(idle_s=0.001), 0.01), (NONE, 0.25)],
)
def test_the_tick_follows_the_shortest_deadline(deadlines: Deadlines, tick: float) -> None:
    assert deadlines.tick_s == tick


@pytest.mark.parametrize(
    ("deadlines", "span"),
    [
        (EACH, 2),
        (Deadlines(first_byte_s=9, idle_s=3), 3),
        (Deadlines(read_idle_s=1), 1),
        (Deadlines(max_age_s=1), 1),
        (NONE, NEVER),
    ],
)
def test_a_connection_may_stand_for_as_long_as_the_shortest_that_begins_without_notice(
    deadlines: Deadlines, span: float
) -> None:
    assert deadlines.fresh_s == span
