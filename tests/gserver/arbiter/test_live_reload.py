"""Whether a reload may keep the running workers: each of them is asked, and none is waited for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gserver.arbiter.live_reload import LiveReload
from gserver.arbiter.supervision import Stage, Supervision
from gserver.arbiter.worker_questions import ANSWER_S, WorkerQuestions
from gserver.arbiter.worker_timeouts import policy_of
from gserver.config.settings import Settings


class Workers:
    """Workers with these pids, which answer when the test says so."""

    def __init__(self, *pids: int, stage: Stage = Stage.SERVING) -> None:
        settings = Settings.checked({})
        self.supervision = Supervision(max(1, len(pids)), policy_of(settings, settings))
        for pid in pids:
            self.supervision.spawned(pid, 0.0).stage = stage
        self.sent: list[tuple[int, Any]] = []
        self.unreachable: set[int] = set()
        self.questions = WorkerQuestions(self._send)
        self.live_reload = LiveReload(self.questions, self.supervision)
        self.decisions: list[str | None] = []

    def _send(self, pid: int, text: str) -> bool:
        if pid not in self.unreachable:
            self.sent.append((pid, json.loads(text)))
        return pid not in self.unreachable

    def ask(self) -> None:
        self.live_reload.ask(self.decisions.append)

    def answer(self, *rows: Any, more: int | None = None, **others: Any) -> None:
        """The worker with the oldest question answers it."""
        pid, question = self.sent.pop(0)
        result = {"result": {"rows": list(rows), "more": more}, **others}
        self.questions.receive(pid, json.dumps({"number": question["number"], **result}))


def test_all_workers_must_answer_that_nothing_has_changed() -> None:
    workers = Workers(11, 12)
    workers.ask()
    assert [(pid, question["subject"]) for pid, question in workers.sent] == [
        (11, "changed files"),
        (12, "changed files"),
    ]
    workers.answer()
    assert (workers.decisions, workers.live_reload.is_deciding) == ([], True)
    workers.answer()

    assert (workers.decisions, workers.live_reload.is_deciding) == ([None], False)


def test_the_first_changed_file_decides_at_once() -> None:
    workers = Workers(11, 12)
    workers.ask()
    workers.answer("/srv/app.py", "/srv/part.py")
    assert workers.decisions == ["/srv/app.py has changed"]
    workers.answer()

    assert workers.decisions == ["/srv/app.py has changed"]


def test_pages_without_a_row_are_no_answer_yet() -> None:
    workers = Workers(11)
    workers.ask()
    workers.answer(more=5)
    workers.answer(more=5)
    assert workers.decisions == []
    workers.answer()

    assert workers.decisions == [None]


def test_draining_workers_are_not_asked() -> None:
    workers = Workers(11, 12)
    workers.supervision[12].stage = Stage.DRAINING
    workers.ask()
    workers.answer()

    assert workers.decisions == [None]


def test_a_worker_that_is_ready_is_asked() -> None:
    workers = Workers(11, stage=Stage.READY)
    workers.ask()
    workers.answer()

    assert workers.decisions == [None]


@pytest.mark.parametrize(
    ("workers", "reason"),
    [
        (Workers(), "there is no worker"),
        (Workers(11, stage=Stage.DRAINING), "there is no worker"),
        (Workers(11, stage=Stage.BOOTING), "a worker is starting"),
    ],
)
def test_without_workers_that_could_answer_new_ones_are_needed(workers: Workers, reason: str) -> None:
    workers.ask()

    assert (workers.decisions, workers.sent) == ([reason], [])


def test_a_worker_that_does_not_answer_is_not_waited_for() -> None:
    workers = Workers(11, 12)
    workers.ask()
    workers.answer()
    until = workers.questions.wakes_at
    assert until is not None
    workers.questions.expire(until - 0.1)
    assert workers.decisions == []
    workers.questions.expire(until + ANSWER_S)

    assert workers.decisions == ["worker 12: the worker does not answer"]


def test_a_worker_that_ends_or_cannot_be_reached_is_a_reason() -> None:
    workers = Workers(11)
    workers.ask()
    workers.questions.worker_ended(11)
    unreachable = Workers(11, 12)
    unreachable.unreachable.add(12)
    unreachable.ask()

    assert workers.decisions == ["worker 11: the worker has ended"]
    assert unreachable.decisions == ["worker 12: the worker does not read its messages"]


def test_an_error_of_a_worker_is_a_reason() -> None:
    workers = Workers(11)
    workers.ask()
    workers.answer(error="KeyError: 'changed files'")  # as from a worker of an earlier version

    assert workers.decisions == ["worker 11: KeyError: 'changed files'"]


def test_a_later_question_replaces_an_earlier_one() -> None:
    workers = Workers(11)
    workers.ask()
    later: list[str | None] = []
    workers.live_reload.ask(later.append)
    workers.answer("/srv/app.py")
    assert (workers.decisions, later) == ([], [])
    workers.answer()

    assert (workers.decisions, later) == ([], [None])


def test_after_cancel_nothing_is_decided() -> None:
    workers = Workers(11)
    workers.ask()
    workers.live_reload.cancel()
    workers.answer("/srv/app.py")

    assert (workers.decisions, workers.live_reload.is_deciding) == ([], False)


@pytest.mark.parametrize("row", [7, None, {"a": 1}, ["x"], "x" * 30_000])
def test_nonsense_of_a_worker_is_a_reason_and_no_error(row: Any) -> None:
    workers = Workers(11)
    workers.ask()
    workers.answer(row)

    assert len(workers.decisions) == 1
    assert workers.decisions[0] is not None
    assert len(workers.decisions[0]) < 1000
