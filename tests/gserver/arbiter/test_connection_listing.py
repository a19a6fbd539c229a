"""Listings of connections over all workers: merged order, limits, workers that end, clients that go."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.arbiter import connection_listing
from gserver.arbiter.connection_listing import ConnectionListing
from gserver.arbiter.worker_questions import ANSWER_S, WorkerQuestions
from gserver.control.protocol import Problem
from gserver.control.selection import NUMBERS


class Client:
    """Reads rows when the test says so."""

    def __init__(self) -> None:
        self.is_wanted = True
        self.lines: list[list[Any]] = []
        self.answer: dict[str, Any] | None = None
        self._sent: Callable[[], None] | None = None

    def rows(self, rows: Sequence[Any], sent: Callable[[], None]) -> None:
        assert rows
        assert self._sent is None
        self.lines.append(list(rows))
        self._sent = sent

    def read(self) -> bool:
        """Read a line; return whether there was one."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent()
        return sent is not None

    def result(self, **fields: Any) -> None:
        assert self.answer is None
        self.answer = fields

    def error(self, problem: Problem) -> None:
        raise AssertionError(problem)

    @property
    def listed(self) -> list[Any]:
        return [row for line in self.lines for row in line]


class FakeWorkers:
    """Workers with these pages of rows, by pid. None: the worker does not answer this question."""

    def __init__(self, pages: dict[int, list[list[Any] | None]]) -> None:
        self.questions = WorkerQuestions(self.send)
        self.client = Client()
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self._pages = {pid: list(found) for pid, found in pages.items()}
        self._unanswered: list[tuple[int, int]] = []

    def send(self, pid: int, text: str) -> bool:
        question = json.loads(text)
        self.asked.append((pid, question["subject"], question["arguments"]))
        self._unanswered.append((pid, question["number"]))
        return True

    def list(self, sort: str = "age", limit: int = 1000) -> None:
        pids = list(self._pages)
        ConnectionListing(self.questions, self.client, pids, "age>0", sort, limit).begin()

    def answer(self) -> bool:
        """Answer all questions that were asked; return whether there was one."""
        unanswered, self._unanswered = self._unanswered, []
        for pid, number in unanswered:
            pages = self._pages[pid]
            page = pages.pop(0) if pages else []
            if page is not None:
                more = number * 10 if pages else None
                self.questions.receive(pid, json.dumps({"number": number, "result": {"rows": page, "more": more}}))
        return bool(unanswered)

    def run(self) -> None:
        """Answer and read until nothing more happens."""
        while self.answer() or self.client.read():
            pass


def rows(*ages: float | None) -> list[Any]:
    return [{"age_s": age} for age in ages]


def ages(found: Sequence[Any]) -> list[Any]:
    return [row["age_s"] for row in found]


def test_the_pages_of_all_workers_are_merged() -> None:
    workers = FakeWorkers({1: [rows(9, 5), rows(4, 1)], 2: [rows(8, 7, 6), rows(3)], 3: [rows()]})
    workers.list()
    workers.run()

    assert ages(workers.client.listed) == [9, 8, 7, 6, 5, 4, 3, 1]
    assert workers.client.answer == {"count": 8, "missing": []}


def test_what_workers_are_asked() -> None:
    workers = FakeWorkers({1: [rows(2), rows(1)]})
    workers.list(limit=5)
    workers.run()

    assert workers.asked == [
        (1, "connections", {"where": "age>0", "sort": "age", "limit": 5}),
        (1, "next page", {"more": 10}),
    ]


@given(
    st.lists(st.lists(st.integers(0, 50), max_size=12), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_any_pages_are_listed_in_order(found: list[list[int]], limit: int, size: int, line: int) -> None:
    pages: dict[int, list[list[Any] | None]] = {}
    for pid, values in enumerate(found, 1):
        ordered = sorted(values, reverse=True)
        pages[pid] = [rows(*ordered[at : at + size]) for at in range(0, len(ordered) + size, size)]
    before, connection_listing.LINE_ROWS = connection_listing.LINE_ROWS, line
    try:
        workers = FakeWorkers(pages)
        workers.list(limit=limit)
        workers.run()
    finally:
        connection_listing.LINE_ROWS = before
    expected = sorted((value for values in found for value in values), reverse=True)[:limit]

    assert ages(workers.client.listed) == expected
    assert workers.client.answer == {"count": len(expected), "missing": []}
    assert all(len(each) <= line for each in workers.client.lines)


def test_rows_without_a_value_come_last() -> None:
    workers = FakeWorkers({1: [[{"handling_s": 2.0}, {"handling_s": None}]], 2: [[{"handling_s": 1.0}]]})
    workers.list("handling")
    workers.run()

    assert [row["handling_s"] for row in workers.client.listed] == [2.0, 1.0, None]
    assert NUMBERS["handling"] == "handling_s"


def test_the_limit_is_over_all_workers() -> None:
    workers = FakeWorkers({1: [rows(9, 8), rows(7)], 2: [rows(6, 5)]})
    workers.list(limit=2)
    workers.run()

    assert ages(workers.client.listed) == [9, 8]
    assert [subject for _, subject, _ in workers.asked] == ["connections"] * 2


def test_empty_pages_with_more_are_asked_on() -> None:
    workers = FakeWorkers({1: [rows(), rows(), rows(3), rows()], 2: [rows(2)]})
    workers.list()
    workers.run()

    assert ages(workers.client.listed) == [3, 2]
    assert workers.client.answer == {"count": 2, "missing": []}


def test_the_next_page_is_asked_for_when_the_client_has_read() -> None:
    workers = FakeWorkers({1: [rows(9), rows(8)], 2: [rows(7), rows(6)]})
    workers.list()
    workers.answer()
    assert ages(workers.client.listed) == [9]
    assert len(workers.asked) == 2
    workers.client.read()

    assert workers.asked[2:] == [(1, "next page", {"more": 10})]


def test_a_worker_that_does_not_answer_is_missing_and_the_others_are_listed() -> None:
    workers = FakeWorkers({1: [None], 2: [rows(5), rows(4)], 3: []})
    workers.list()
    workers.run()
    assert workers.client.lines == []
    workers.questions.expire(ANSWER_S + 1e9)
    workers.run()

    assert ages(workers.client.listed) == [5, 4]
    assert workers.client.answer == {"count": 2, "missing": [{"pid": 1, "problem": "the worker does not answer"}]}


def test_a_worker_that_dies_in_the_middle_is_missing() -> None:
    workers = FakeWorkers({1: [rows(9, 8), None], 2: [rows(7), rows(6)]})
    workers.list()
    workers.run()
    assert ages(workers.client.listed) == [9, 8]
    workers.questions.worker_ended(1)
    workers.run()

    assert ages(workers.client.listed) == [9, 8, 7, 6]
    assert workers.client.answer == {"count": 4, "missing": [{"pid": 1, "problem": "the worker has ended"}]}


def test_without_workers_or_without_channels_the_listing_is_empty() -> None:
    nobody, closed = FakeWorkers({}), FakeWorkers({1: [], 2: []})
    closed.questions = WorkerQuestions(lambda pid, text: False)
    nobody.list()
    closed.list()

    assert nobody.client.answer == {"count": 0, "missing": []}
    problem = "the worker does not read its messages"
    assert closed.client.answer == {
        "count": 0,
        "missing": [{"pid": 1, "problem": problem}, {"pid": 2, "problem": problem}],
    }


def test_after_the_client_has_gone_workers_are_not_asked_any_more() -> None:
    workers = FakeWorkers({1: [rows(9), rows(8)]})
    workers.list()
    workers.client.is_wanted = False
    workers.run()

    assert len(workers.asked) == 1
    assert workers.client.lines == []


@pytest.mark.parametrize("row", [7, None, "text", [], {}, {"age_s": "old"}, {"age_s": [1]}])
def test_rows_of_any_kind_end_nothing(row: Any) -> None:
    """A worker runs user code, which must not be able to end the arbiter."""
    workers = FakeWorkers({1: [[row, row]], 2: [rows(5)]})
    workers.list()
    workers.run()

    assert workers.client.answer == {"count": 3, "missing": []}
    assert workers.client.listed[0] == {"age_s": 5}
