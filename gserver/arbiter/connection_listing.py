"""One listing of connections over all workers: merges their sorted pages, and passes rows on as the client reads them.

Each worker is asked for a page at a time, and the next page only when the client has read what it got. So a listing
costs the arbiter one page for each worker, however many connections there are. A worker that does not answer is left
out, and named in the result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gserver.arbiter.worker_questions import Answer, WorkerQuestions
from gserver.control.control_socket import Reply
from gserver.control.selection import NUMBERS

__all__ = ["ConnectionListing"]


class ConnectionListing:
    """Lists connections to `reply`. begin() begins; everything else happens when workers answer.

    Args:
        pids: the workers that are asked.
        sort: the name of the number by which rows are sorted, the largest first.
        limit: the most rows.
    """

    def __init__(
        self, questions: WorkerQuestions, reply: Reply, pids: Sequence[int], where: str, sort: str, limit: int
    ) -> None:
        self._questions = questions
        self._reply = reply
        self._where, self._sort = where, sort
        self._left = limit
        self._count = 0
        self._awaited: set[int] = set(pids)
        self._pages: dict[int, list[Mapping[str, Any]]] = {}  # rows that are not sent yet, the next one last
        self._more: dict[int, int | None] = {}
        self._missing: list[dict[str, Any]] = []

    def begin(self) -> None:
        if not self._awaited:
            self._finish()
        for pid in sorted(self._awaited):
            arguments = {"where": self._where, "sort": self._sort, "limit": self._left}
            self._ask(pid, "connections", arguments)

    def _ask(self, pid: int, subject: str, arguments: Mapping[str, Any]) -> None:
        self._questions.ask(pid, subject, arguments, time.monotonic(), lambda answer: self._answered(pid, answer))

    def _answered(self, pid: int, answer: Answer) -> None:
        self._awaited.discard(pid)
        if answer.problem is None:
            self._pages[pid] = answer.rows[::-1]
            self._more[pid] = answer.more
        else:
            self._pages.pop(pid, None)
            self._missing.append({"pid": pid, "problem": answer.problem})
        if not self._awaited:
            self._send_rows()

    def _send_rows(self) -> None:
        """Send rows until a worker's page is used up; ask for its next one when the client has read them."""
        if not self._reply.is_wanted:
            return
        rows = []
        self._drop_finished()
        while self._left > 0 and self._pages and all(self._pages.values()):
            pid = max(self._pages, key=lambda each: self._value(self._pages[each][-1]))
            rows.append(self._pages[pid].pop())
            self._left -= 1
            self._drop_finished()
        self._count += len(rows)
        if rows:
            self._reply.rows(rows, self._continue)
        else:
            self._continue()

    def _drop_finished(self) -> None:
        """Forget workers without further rows. The others' pages must not be empty for the next row to be known."""
        for pid in [pid for pid, page in self._pages.items() if not page and self._more[pid] is None]:
            del self._pages[pid]

    def _value(self, row: Mapping[str, Any]) -> float:
        value = row[NUMBERS[self._sort]]
        return -1.0 if value is None else float(value)

    def _continue(self) -> None:
        if self._left <= 0 or not self._pages:
            self._finish()
            return
        self._awaited = {pid for pid, page in self._pages.items() if not page}
        for pid in sorted(self._awaited):
            self._ask(pid, "next page", {"more": self._more[pid]})

    def _finish(self) -> None:
        self._reply.result(count=self._count, missing=self._missing)
