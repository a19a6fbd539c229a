"""The recordings of the control socket: pass the transcripts of the workers on to clients, as the clients read them.

A recording of an address is made in all workers, also in those that begin to serve later. Each worker has one page at a
time on its way: it is asked for the next one when the client has read the last. So a recording costs the arbiter one
page for each worker, and a client that does not read makes the workers drop events. A client that goes ends it.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gserver.arbiter.worker_questions import Answer, WorkerQuestions
from gserver.control.control_socket import Reply
from gserver.control.protocol import Problem
from gserver.transcript import END_CLOSED, END_LIMIT, END_LOST, END_MASK_FAILED, END_SECONDS, END_STOPPED

__all__ = ["DEFAULT_LIMIT_BYTES", "MAX_RECORDINGS", "Recordings"]

MAX_RECORDINGS = 8
#: Data of each worker.
DEFAULT_LIMIT_BYTES = 64 * 1024 * 1024
# A worker whose event loop is blocked answers late, and its connections are still recorded. If it has a timeout, the
# arbiter kills it, which ends the question too.
PATIENCE_S = 7 * 24 * 3600.0
# How long a client waits for workers that do not answer, before the others' rows come.
START_S = 2.0
# When a worker that had no rows is asked again. It answers at once, so that its other questions need not wait.
POLL_S = 0.1
# Of several workers, the first of these that one has ended with. After the first two, the others are ended.
_ENDS = (END_MASK_FAILED, END_LIMIT, END_SECONDS, END_STOPPED, END_LOST, END_CLOSED)


class Recordings:
    """The recordings that run.

    Args:
        questions: to the workers.
    """

    def __init__(self, questions: WorkerQuestions) -> None:
        self._questions = questions
        self._numbers = itertools.count(1)
        self._running: dict[int, _Recording] = {}

    def begin(self, reply: Reply, pids: Iterable[int], arguments: Mapping[str, Any]) -> None:
        """Record in these workers, and reply with the rows; the first one has the number of the recording.

        Args:
            arguments: of the command. Without `connection`, workers that begin to serve later record too.
        """
        if len(self._running) >= MAX_RECORDINGS:
            raise Problem("failed", f"{MAX_RECORDINGS} recordings run already")
        number = next(self._numbers)
        recording = _Recording(number, self._questions, reply, arguments, lambda: self._running.pop(number, None))
        self._running[number] = recording
        recording.begin(pids)

    def end(self, number: int) -> None:
        """Let a recording end: its client still gets what was recorded. Problem if there is none."""
        if number not in self._running:
            raise Problem("not_found", f"there is no recording {number}")
        self._running[number].end()

    def worker_will_serve(self, pid: int) -> None:
        """A worker gets its listeners now."""
        for recording in list(self._running.values()):
            recording.worker_will_serve(pid)


class _Recording:
    def __init__(
        self,
        number: int,
        questions: WorkerQuestions,
        reply: Reply,
        arguments: Mapping[str, Any],
        over: Callable[[], object],
    ) -> None:
        self._number = number
        self._questions = questions
        self._reply = reply
        self._over = over
        self._is_for_one = "connection" in arguments
        self._arguments = {"limit": DEFAULT_LIMIT_BYTES, **arguments, "recording": number}
        seconds = arguments.get("seconds")
        self._until = None if seconds is None else time.monotonic() + seconds
        self._active: set[int] = set()  # workers that record, or that have rows
        self._pages: deque[tuple[list[Any], Callable[[], None]]] = deque()  # that the client has not read
        self._starting: set[int] = set()  # workers that have not confirmed that they record
        self._is_begun = self._is_sending = self._is_over = self._is_ended = False
        self._ends: set[str] = set()
        self._counts = {"connections": 0, "skipped": 0}
        self._missing: list[dict[str, Any]] = []

    def begin(self, pids: Iterable[int]) -> None:
        self._reply.when_gone(self._client_gone)
        self._starting = set(pids)
        for pid in list(self._starting):
            self._begin_in(pid)
        self._questions.call_later(time.monotonic() + START_S, self._has_begun)
        if self._until is not None:
            self._questions.call_later(self._until + START_S, self._time_is_over)
        self._check_begun()

    def _check_begun(self) -> None:
        if not self._starting:
            self._has_begun()

    def _has_begun(self) -> None:
        """All workers record, except those that do not answer in time. The first row tells the client."""
        if not self._is_begun and not self._is_over:
            self._is_begun = True
            self._pages.appendleft(([{"recording": self._number}], lambda: None))
            self._send_next()

    def _time_is_over(self) -> None:
        """Of workers that end by themselves, there may be none at that time."""
        self._ends.add(END_SECONDS)
        self.end()

    def worker_will_serve(self, pid: int) -> None:
        if not self._is_for_one and not self._is_ended and pid not in self._active:
            self._begin_in(pid)

    def _begin_in(self, pid: int) -> None:
        arguments = dict(self._arguments)
        if self._until is not None:
            arguments["seconds"] = max(0.001, self._until - time.monotonic())
        self._active.add(pid)
        self._ask(pid, "record", arguments)

    def end(self) -> None:
        if not self._is_ended and not self._is_over:
            self._is_ended = True
            self._ends.add(END_STOPPED)
            self._end_in_workers()
            self._check_over()

    def _end_in_workers(self) -> None:
        for pid in sorted(self._active):
            arguments = {"recording": self._number}
            self._questions.ask(pid, "end record", arguments, time.monotonic(), lambda answer: None, PATIENCE_S)

    def _ask(self, pid: int, subject: str, arguments: Mapping[str, Any]) -> None:
        self._questions.ask(
            pid, subject, arguments, time.monotonic(), lambda answer: self._answered(pid, answer), PATIENCE_S
        )

    def _answered(self, pid: int, answer: Answer) -> None:
        self._take(pid, answer)
        self._starting.discard(pid)
        self._check_begun()

    def _take(self, pid: int, answer: Answer) -> None:
        if self._is_over or not self._reply.is_wanted:
            self._forget(pid, answer)
        elif answer.problem is not None:
            self._missing.append({"pid": pid, "problem": answer.problem})
            self._ends.add(END_LOST)
            self._send([{"lost": pid, "problem": answer.problem}], lambda: self._worker_done(pid))
        elif answer.rows and answer.more is not None:
            self._send(answer.rows, lambda: self._ask(pid, "next page", {"more": answer.more}))
        elif answer.more is not None:
            asked, later = {"more": answer.more}, time.monotonic() + POLL_S
            self._questions.ask_later(
                later, pid, "next page", asked, lambda found: self._answered(pid, found), PATIENCE_S
            )
        else:
            self._last_page(pid, answer.rows)

    def _last_page(self, pid: int, rows: list[Any]) -> None:
        summary = rows.pop() if rows and isinstance(rows[-1], dict) else {}
        if "refused" in summary:
            self._refused(summary["refused"])
            return
        for name in self._counts:
            count = summary.get(name)
            self._counts[name] += count if isinstance(count, int) else 0
        ended = summary.get("ended")
        if ended in _ENDS:
            self._ends.add(ended)
        self._send(rows, lambda: self._worker_done(pid))
        if ended in (END_LIMIT, END_MASK_FAILED):
            self.end()

    def _refused(self, why: Any) -> None:
        name = self._arguments.get("connection")
        if isinstance(why, str):
            self._finish(lambda: self._reply.error(Problem("failed", why)))
        else:
            self._finish(lambda: self._reply.error(Problem("not_found", f"there is no connection {name!r}")))

    def _worker_done(self, pid: int) -> None:
        self._active.discard(pid)
        self._check_over()

    def _check_over(self) -> None:
        """Without a worker, the recording of an address waits for the next one, unless its time is over."""
        is_last = self._is_for_one or self._is_ended or END_SECONDS in self._ends
        if is_last and self._is_begun and not self._active and not self._pages and not self._is_sending:
            ended = next((each for each in _ENDS if each in self._ends), END_STOPPED)
            self._finish(lambda: self._reply.result(ended=ended, **self._counts, missing=self._missing))

    def _finish(self, reply: Callable[[], None]) -> None:
        if not self._is_over:
            self._is_over = True
            self._over()
            reply()

    # The client

    def _send(self, rows: list[Any], read: Callable[[], None]) -> None:
        """Send rows behind those that wait, and call `read` when the client has read them."""
        if rows:
            self._pages.append((rows, read))
            self._send_next()
        else:
            read()

    def _send_next(self) -> None:
        if self._pages and self._is_begun and not self._is_sending and not self._is_over:
            rows, read = self._pages.popleft()
            self._is_sending = True
            self._reply.rows(rows, lambda: self._was_read(read))

    def _was_read(self, read: Callable[[], None]) -> None:
        self._is_sending = False
        read()
        self._send_next()
        self._check_over()

    def _client_gone(self) -> None:
        """End it in the workers. The answers that are on their way are forgotten when they come."""
        if not self._is_over:
            self._is_over = True
            self._over()
            self._pages.clear()
            self._end_in_workers()

    def _forget(self, pid: int, answer: Answer) -> None:
        if answer.more is not None:
            arguments = {"more": answer.more}
            self._questions.ask(pid, "forget", arguments, time.monotonic(), lambda answer: None)
