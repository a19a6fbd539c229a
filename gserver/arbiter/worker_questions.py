"""Passes questions of the control socket to workers, and their answers back. Never waits for a worker.

An answer is a series of rows, in pages: each page is an answer of its own, to a question for the next page. A worker
has at most one question at a time, and a page fits into one message of the channel. So answers leave room in the
channel for the other messages. Further questions wait here. A worker that does not answer in time is stuck, or very
busy; the time in which a question waits here counts as well.

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


@dataclass(frozen=True)
class Answer:
    """What a worker has answered.

    Attributes:
        rows: perhaps none, even if there is more.
        more: what to ask for the next page with; None: there is none.
        problem: why there is no answer, in one line; None: there is one.
    """

    rows: list[Any]
    more: int | None = None
    problem: str | None = None


@dataclass
class _Question:
    number: int
    subject: str
    arguments: Mapping[str, Any]
    until: float
    answered: Callable[[Answer], None]


class WorkerQuestions:
    """The questions to all workers.

    Args:
        send: sends the text of a QUESTION to the worker with this pid; returns False if that is not possible.
    """

    def __init__(self, send: Callable[[int, str], bool]) -> None:
        self._send = send
        self._number = 0
        self._waiting: dict[int, deque[_Question]] = {}  # by pid; the first of each has been sent

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
        self._number += 1
        queue = self._waiting.setdefault(pid, deque())
        queue.append(_Question(self._number, subject, arguments, now + limit_s, answered))
        if len(queue) == 1:
            self._send_first(pid)

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
        """A worker has answered. The answer to a question that was given up is ignored, and so is nonsense.

        A worker runs user code, which must not be able to end the arbiter.
        """
        queue = self._waiting.get(pid)
        try:
            answer = json.loads(text)
            if not queue or queue[0].number != answer["number"]:
                return
            failure, page = answer.get("error"), answer.get("result", {"rows": [], "more": None})
            found = Answer(list(page["rows"]), page["more"], failure)
        except (ValueError, LookupError, TypeError, RecursionError):
            return
        question = queue.popleft()
        self._send_first(pid)
        question.answered(found)

    def worker_ended(self, pid: int) -> None:
        for question in self._waiting.pop(pid, ()):
            question.answered(Answer([], problem="the worker has ended"))

    @property
    def wakes_at(self) -> float | None:
        """When to call expire() next; None: there is no question."""
        return min((question.until for queue in self._waiting.values() for question in queue), default=None)

    def expire(self, now: float) -> None:
        """Give up the questions that were not answered in time."""
        for pid, queue in list(self._waiting.items()):
            overdue = [question for question in queue if now >= question.until]
            if not overdue:
                continue
            was_sent = queue[0] in overdue
            for question in overdue:
                queue.remove(question)
            if was_sent:
                self._send_first(pid)
            for question in overdue:
                question.answered(Answer([], problem="the worker does not answer"))

    def _send_first(self, pid: int) -> None:
        """Send the first question of the queue; without a channel to the worker, its questions are over."""
        while (queue := self._waiting.get(pid)) is not None:
            if not queue:
                del self._waiting[pid]
                return
            first = queue[0]
            content = {"number": first.number, "subject": first.subject, "arguments": first.arguments}
            if self._send(pid, json.dumps(content)):
                return
            queue.popleft()
            first.answered(Answer([], problem="the worker does not read its messages"))
