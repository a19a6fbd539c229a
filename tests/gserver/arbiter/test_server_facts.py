from __future__ import annotations

import pytest

from gserver.arbiter.restart_causes import RestartCause
from gserver.arbiter.scoreboard import Scoreboard
from gserver.arbiter.server_facts import FACT_WORDS, ServerFacts


@pytest.fixture
def facts() -> ServerFacts:
    return ServerFacts(memoryview(bytearray(8 * FACT_WORDS)).cast("Q"))


def test_a_fact_is_read_as_it_was_written(facts: ServerFacts) -> None:
    facts.started_at = 1_796_049_006.079318
    facts.generation, facts.target = 7, 500
    facts.is_stopping = facts.is_taken_out = True

    assert facts.started_at == pytest.approx(1_796_049_006.079318, abs=1e-5)
    assert (facts.generation, facts.target, facts.is_stopping, facts.is_taken_out) == (7, 500, True, True)
    facts.is_taken_out = False
    assert (facts.is_stopping, facts.is_taken_out) == (True, False)


def test_reloads_are_counted_by_outcome_and_the_last_one_is_kept(facts: ServerFacts) -> None:
    assert (facts.reloads_succeeded, facts.reloads_failed, facts.last_reload_at) == (0, 0, 0)
    facts.reload_ended(succeeded=True, at=10.0)
    facts.reload_ended(succeeded=False, at=20.5)

    assert (facts.reloads_succeeded, facts.reloads_failed) == (1, 1)
    assert (facts.last_reload_at, facts.last_reload_failed) == (20.5, True)
    facts.reload_ended(succeeded=True, at=30.0)
    assert not facts.last_reload_failed


def test_restarts_are_counted_by_cause(facts: ServerFacts) -> None:
    for count, cause in enumerate(RestartCause):
        for _ in range(count):
            facts.restarted(cause)

    assert list(facts.restarts.values()) == list(range(len(RestartCause)))


def test_the_facts_are_behind_the_slots() -> None:
    scoreboard = Scoreboard(2)
    slot = scoreboard.free_slot()
    slot.reserve(age=1)
    scoreboard.server.started_at = 5.0
    scoreboard.server.restarted(RestartCause.RELOADED)
    scoreboard.vacate(slot)

    assert scoreboard.totals() == [0] * len(scoreboard.totals())
    assert scoreboard.server.started_at == 5.0
    assert scoreboard.server.restarts[RestartCause.RELOADED] == 1
