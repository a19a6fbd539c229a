"""Passes the rows of one worker's answer on to a client, page by page, as the client reads them.

The last row may be an object with a summary: its fields are those of the result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gserver.arbiter.worker_questions import Answer, WorkerQuestions
from gserver.control.control_socket import Reply
from gserver.control.protocol import Problem

__all__ = ["RowStream"]


class RowStream:
    """Asks one worker, and replies with its rows. begin() begins; everything else happens when the worker answers."""

    def __init__(
        self, questions: WorkerQuestions, reply: Reply, pid: int, subject: str, arguments: Mapping[str, Any]
    ) -> None:
        self._questions = questions
        self._reply = reply
        self._pid = pid
        self._subject, self._arguments = subject, arguments

    def begin(self) -> None:
        self._ask(self._subject, self._arguments)

    def _ask(self, subject: str, arguments: Mapping[str, Any]) -> None:
        self._questions.ask(self._pid, subject, arguments, time.monotonic(), self._answered)

    def _answered(self, answer: Answer) -> None:
        if not self._reply.is_wanted:  # the worker forgets what nobody asks for
            return
        if answer.problem is not None:
            self._reply.error(Problem("no_answer", f"worker {self._pid}: {answer.problem}"))
            return
        rows, summary = answer.rows, {}
        if answer.more is None and rows and isinstance(rows[-1], dict):
            rows, summary = rows[:-1], rows[-1]

        def go_on() -> None:
            if answer.more is None:
                self._reply.result(pid=self._pid, **summary)
            else:
                self._ask("next page", {"more": answer.more})

        if rows:
            self._reply.rows(rows, go_on)
        else:
            go_on()
