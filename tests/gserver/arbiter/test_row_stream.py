"""The rows of one worker for one client: pages in order, the summary, clients that go, workers that do not answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gserver.arbiter.row_stream import RowStream
from gserver.arbiter.worker_questions import ANSWER_S, WorkerQuestions
from tests.gserver.arbiter.control_clients import Client

PID = 7


class Worker:
    """Answers with what the test gives."""

    def __init__(self, overdue: Callable[[], None] | None = None) -> None:
        self.questions = WorkerQuestions(self.send)
        self.client = Client()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._number = 0
        RowStream(self.questions, self.client, PID, "stacks", {"a": 1}, overdue).begin()

    def send(self, pid: int, text: str) -> bool:
        question = json.loads(text)
        self._number = question["number"]
        self.asked.append((question["subject"], question["arguments"]))
        return True

    def answer(self, rows: Any, more: Any = None) -> None:
        self.questions.receive(PID, json.dumps({"number": self._number, "result": {"rows": rows, "more": more}}))


def test_a_page_is_asked_for_when_the_client_has_read_the_last_one() -> None:
    worker = Worker()
    worker.answer(["one"], more=5)
    assert worker.asked == [("stacks", {"a": 1})]
    worker.client.read()
    assert worker.asked[1:] == [("next page", {"more": 5})]
    worker.answer([], more=5)  # nothing was found in time
    worker.answer(["two"])
    worker.client.read()

    assert worker.client.listed == ["one", "two"]
    assert worker.client.answer == {"pid": PID}
    assert len(worker.asked) == 3


def test_an_object_at_the_end_is_the_summary() -> None:
    worker = Worker()
    worker.answer(["one", {"samples": 3}])
    worker.client.read()

    assert (worker.client.listed, worker.client.answer) == (["one"], {"pid": PID, "samples": 3})


def test_a_summary_cannot_have_another_pid() -> None:
    worker = Worker()
    worker.answer([{"pid": 1, "self": 2, "": 3}])

    assert worker.client.answer == {"pid": PID, "self": 2, "": 3}


def test_an_object_that_is_not_at_the_end_is_a_row() -> None:
    worker = Worker()
    worker.answer([{"a": 1}], more=5)

    assert worker.client.listed == [{"a": 1}]


def test_for_a_client_that_has_gone_the_worker_forgets_the_rest() -> None:
    worker = Worker()
    worker.client.is_wanted = False
    worker.answer(["one"], more=5)
    worker.answer([])

    assert worker.asked[1:] == [("forget", {"more": 5})]
    assert (worker.client.listed, worker.client.answer, worker.client.problem) == ([], None, None)


def test_a_worker_has_nothing_to_forget_after_the_last_page() -> None:
    worker = Worker()
    worker.client.is_wanted = False
    worker.answer(["one"])

    assert len(worker.asked) == 1


def code_of(worker: Worker) -> tuple[str, str]:
    assert worker.client.problem is not None
    return worker.client.problem.code, str(worker.client.problem)


def test_an_error_of_the_worker_is_the_reply() -> None:
    worker = Worker(overdue=lambda: pytest.fail("it has answered"))
    worker.questions.receive(PID, json.dumps({"number": 1, "error": "a profile is running already"}))

    assert code_of(worker) == ("no_answer", f"worker {PID}: a profile is running already")


def test_for_a_worker_that_is_overdue_another_may_reply() -> None:
    called: list[str] = []
    plain, other = Worker(), Worker(overdue=lambda: called.append("overdue"))
    for worker in (plain, other):
        until = worker.questions.wakes_at
        assert until is not None
        worker.questions.expire(until + ANSWER_S)

    assert code_of(plain) == ("no_answer", f"worker {PID}: the worker does not answer")
    assert (called, other.client.problem) == (["overdue"], None)


def test_a_worker_that_ends_between_two_pages() -> None:
    worker = Worker()
    worker.answer(["one"], more=5)
    worker.client.read()
    worker.questions.worker_ended(PID)

    assert code_of(worker) == ("no_answer", f"worker {PID}: the worker has ended")
