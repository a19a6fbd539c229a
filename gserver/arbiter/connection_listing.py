"""One listing of connections over all workers: merges their sorted pages, and passes rows on as the client reads them.

Each worker is asked for a page at a time, and the next page only when the client has read what it got. So a listing
costs the arbiter one page for each worker, however many connections there are. A worker that does not answer is left
out, and named in the result.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gserver.arbiter.worker_questions import Answer, WorkerQuestions
from gserver.control.control_socket import Reply
from gserver.control.selection import NUMBERS

__all__ = ["ConnectionListing"]

# The most rows in one line to the client: encoding a row takes some 5 us, and the arbiter does nothing else meanwhile.
LINE_ROWS = 500


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
        rows = self._next_rows()
        self._count += len(rows)
        if rows:
            self._reply.rows(rows, self._continue)
        else:
            self._continue()

    def _next_rows(self) -> list[Any]:
        """The next rows, as far as the order is certain: no page may be empty while its worker has further rows."""
        for pid in [pid for pid, page in self._pages.items() if not page and self._more[pid] is None]:
            del self._pages[pid]
        if not all(self._pages.values()):
            return []
        heads = [(-self._value(page[-1]), pid) for pid, page in self._pages.items()]
        heapq.heapify(heads)
        rows: list[Any] = []
        while heads and self._left > 0 and len(rows) < LINE_ROWS:
            pid = heads[0][1]
            page = self._pages[pid]
            rows.append(page.pop())
            self._left -= 1
            if page:
                heapq.heapreplace(heads, (-self._value(page[-1]), pid))
            elif self._more[pid] is None:
                heapq.heappop(heads)
                del self._pages[pid]
            else:
                break
        return rows

    def _value(self, row: Any) -> float:
        """What the row is sorted by. A worker runs user code, so its row may be anything."""
        value = row.get(NUMBERS[self._sort]) if isinstance(row, Mapping) else None
        return float(value) if isinstance(value, int | float) else -1.0

    def _continue(self) -> None:
        if self._left <= 0 or not self._pages:
            self._finish()
            return
        self._awaited = {pid for pid, page in self._pages.items() if not page}
        if not self._awaited:
            self._send_rows()
        for pid in sorted(self._awaited):
            self._ask(pid, "next page", {"more": self._more[pid]})

    def _finish(self) -> None:
        self._reply.result(count=self._count, missing=self._missing)
