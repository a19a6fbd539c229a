"""Passes questions of the control socket to workers, and their answers back. Never waits for a worker.

An answer is a series of rows, in pages: each page is an answer of its own, to a question for the next page. A worker
has at most one question at a time, and a page fits into one message of the channel. So questions and answers leave room
in the channel for the other messages. Further questions wait here. A worker that does not answer in time is stuck, or
very busy; the time in which a question waits here counts as well. It gets no other question before it has answered the
last one, also if that was given up meanwhile.

    QUESTION  {"number": 7, "subject": "connections", "arguments": {...}}
    ANSWER    {"number": 7, "result": {"rows": [...], "more": 3}}     or     {"number": 7, "error": "..."}
    QUESTION  {"number": 8, "subject": "next page", "arguments": {"more": 3}}
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ANSWER_S", "Answer", "WorkerQuestions"]

#: How long a worker may take for an answer, in seconds. Listings are answered page by page.
ANSWER_S = 2.0
# Rows are objects of texts, numbers, lists and objects. What is deeper may be parsed, but not be made into JSON again.
MAX_DEPTH = 8
# The most questions that wait for one worker. A client has one at a time, but it may go and come again.
MAX_WAITING = 64


@dataclass(frozen=True)
class Answer:
    """What a worker has answered.

    Attributes:
        rows: perhaps none, even if there is more.
        more: what to ask for the next page with; None: there is none.
        problem: why there is no answer, in one line; None: there is one.
        is_overdue: the worker has not answered in time.
    """

    rows: list[Any]
    more: int | None = None
    problem: str | None = None
    is_overdue: bool = False


@dataclass
class _Question:
    number: int
    subject: str
    arguments: Mapping[str, Any]
    until: float
    answered: Callable[[Answer], None]


@dataclass
class _Later:
    at: float
    pid: int | None  # of the worker that is asked then
    call: Callable[[], None]
    answered: Callable[[Answer], None]  # called instead if the worker ends before


_NONE: deque[_Question] = deque()


class WorkerQuestions:
    """The questions to all workers.

    Args:
        send: sends the text of a QUESTION to the worker with this pid; returns False if that is not possible.
    """

    def __init__(self, send: Callable[[int, str], bool]) -> None:
        self._send = send
        self._number = 0
        self._waiting: dict[int, deque[_Question]] = {}  # by pid
        self._unanswered: dict[int, int] = {}  # by pid: the number of the last question that was sent
        self._later: list[_Later] = []

    def ask(
        self,
        pid: int,
        subject: str,
        arguments: Mapping[str, Any],
        now: float,
        answered: Callable[[Answer], None],
        limit_s: float = ANSWER_S,
    ) -> None:
        """Ask a worker. `answered` is called once: with its answer, or after `limit_s` seconds with a problem."""
        queue = self._waiting.setdefault(pid, deque())
        if len(queue) >= MAX_WAITING:
            answered(Answer([], problem="too many questions wait for the worker"))
            return
        self._number += 1
        queue.append(_Question(self._number, subject, arguments, now + limit_s, answered))
        self._send_next(pid)

    def ask_later(
        self,
        at: float,
        pid: int,
        subject: str,
        arguments: Mapping[str, Any],
        answered: Callable[[Answer], None],
        limit_s: float = ANSWER_S,
    ) -> None:
        """Like ask(), at a time."""
        self._later.append(_Later(at, pid, lambda: self.ask(pid, subject, arguments, at, answered, limit_s), answered))

    def call_later(self, at: float, call: Callable[[], None]) -> None:
        """Call a function at a time, for what begins with questions and must not wait for all answers."""
        self._later.append(_Later(at, None, call, lambda answer: None))

    def ask_all_pages(
        self,
        pid: int,
        subject: str,
        arguments: Mapping[str, Any],
        now: Callable[[], float],
        answered: Callable[[Answer], None],
    ) -> None:
        """Ask a worker for all pages. `answered` is called once: with all rows, or with those before a problem."""
        rows: list[Any] = []

        def take(answer: Answer) -> None:
            rows.extend(answer.rows)
            if answer.more is None:
                answered(Answer(rows, problem=answer.problem))
            else:
                self.ask(pid, "next page", {"more": answer.more}, now(), take)

        self.ask(pid, subject, arguments, now(), take)

    def receive(self, pid: int, text: str) -> None:
        """A worker has answered. The answer to a question that was given up is not passed on, and so is nonsense.

        A worker runs user code, which must not be able to end the arbiter.
        """
        try:
            answer = json.loads(text)
            number, page = answer["number"], answer.get("result", {"rows": [], "more": None})
            found = Answer(list(page["rows"]), page["more"], answer.get("error"))
            if not _is_shallow([found.rows, found.more, found.problem], MAX_DEPTH):
                found = Answer([], problem="its answer is nested too deeply")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return
        if self._unanswered.get(pid) != number:
            return
        del self._unanswered[pid]
        queue = self._waiting.get(pid, _NONE)
        question = queue.popleft() if queue and queue[0].number == number else None
        self._send_next(pid)
        if question is not None:
            question.answered(found)

    def worker_ended(self, pid: int) -> None:
        self._unanswered.pop(pid, None)
        for question in self._waiting.pop(pid, ()):
            question.answered(Answer([], problem="the worker has ended"))
        of_worker = [later for later in self._later if later.pid == pid]
        self._later = [later for later in self._later if later.pid != pid]
        for later in of_worker:
            later.answered(Answer([], problem="the worker has ended"))

    @property
    def wakes_at(self) -> float | None:
        """When to call expire() next; None: there is no question."""
        ends = (question.until for queue in self._waiting.values() for question in queue)
        return min((*ends, *(later.at for later in self._later)), default=None)

    def expire(self, now: float) -> None:
        """Give up the questions that were not answered in time, and ask those whose time has come."""
        due = [later for later in self._later if now >= later.at]
        self._later = [later for later in self._later if now < later.at]
        for later in due:
            later.call()
        for pid, queue in list(self._waiting.items()):
            overdue = [question for question in queue if now >= question.until]
            if overdue:
                self._waiting[pid] = deque(question for question in queue if now < question.until)
            for question in overdue:
                question.answered(Answer([], problem="the worker does not answer", is_overdue=True))

    def _send_next(self, pid: int) -> None:
        """Send the first question that waits, if the worker has answered the last one.

        Without a channel to the worker, its questions are over.
        """
        queue = self._waiting.get(pid, _NONE)
        while queue and pid not in self._unanswered:
            first = queue[0]
            content = {"number": first.number, "subject": first.subject, "arguments": first.arguments}
            if self._send(pid, json.dumps(content)):
                self._unanswered[pid] = first.number
            else:
                queue.popleft()
                first.answered(Answer([], problem="the worker does not read its messages"))
        if not queue:
            self._waiting.pop(pid, None)


def _is_shallow(value: Any, depth: int) -> bool:
    if not isinstance(value, list | dict):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_shallow(each, depth - 1) for each in inside)
