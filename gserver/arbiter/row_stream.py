"""Passes the rows of one worker's answer on to a client, page by page, as the client reads them.

The last row may be an object with a summary: its fields are those of the result. A client that goes ends the work of
the worker: it forgets what nobody reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gserver.arbiter.worker_questions import Answer, WorkerQuestions
from gserver.control.control_socket import Reply
from gserver.control.protocol import Problem

__all__ = ["RowStream"]


class RowStream:
    """Asks one worker, and replies with its rows. begin() begins; everything else happens when the worker answers.

    Args:
        overdue: called if the worker does not answer in time, and replies; None: the reply is an error.
    """

    def __init__(
        self,
        questions: WorkerQuestions,
        reply: Reply,
        pid: int,
        subject: str,
        arguments: Mapping[str, Any],
        overdue: Callable[[], None] | None = None,
    ) -> None:
        self._questions = questions
        self._reply = reply
        self._pid = pid
        self._subject, self._arguments = subject, arguments
        self._overdue = overdue

    def begin(self) -> None:
        self._ask(self._subject, self._arguments)

    def _ask(self, subject: str, arguments: Mapping[str, Any]) -> None:
        self._questions.ask(self._pid, subject, arguments, time.monotonic(), self._answered)

    def _answered(self, answer: Answer) -> None:
        if not self._reply.is_wanted:
            if answer.more is not None:
                arguments = {"more": answer.more}
                self._questions.ask(self._pid, "forget", arguments, time.monotonic(), lambda answer: None)
            return
        if answer.problem is not None:
            if answer.is_overdue and self._overdue is not None:
                self._overdue()
            else:
                self._reply.error(Problem("no_answer", f"worker {self._pid}: {answer.problem}"))
            return
        rows, summary = answer.rows, {}
        if answer.more is None and rows and isinstance(rows[-1], dict):
            rows, summary = rows[:-1], rows[-1]

        def go_on() -> None:
            if answer.more is None:
                self._reply.result(**{**summary, "pid": self._pid})
            else:
                self._ask("next page", {"more": answer.more})

        if rows:
            self._reply.rows(rows, go_on)
        else:
            go_on()
