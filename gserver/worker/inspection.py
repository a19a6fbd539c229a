"""Answers the arbiter's questions about this worker: lists, describes and closes connections, for the control socket.

An answer is a series of rows. A question is answered by a greenlet of its own, which lets the connections run after
each time slice: so a listing of 15,000 connections delays nobody by more than one message of a peer would. The rows go
to the arbiter page by page, when it asks for the next page. A page comes after PAGE_S at the latest, with the rows that
were found by then, perhaps none: so a long search is not taken for a worker that is stuck.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.pool import Group

from gserver.arbiter.channel import ANSWER, Channel
from gserver.connection.connection import Connection, State
from gserver.connection.time_slice import Fairness
from gserver.control.selection import NUMBERS, Selection
from gserver.user_errors import described
from gserver.worker.connection_rows import details_of, facts_of, row_of
from gserver.worker.worker_server import WorkerServer

__all__ = ["PAUSE", "Inspection", "Refused"]

log = logging.getLogger("gserver.worker")

# A row has some 500 bytes. The channel encodes a page once more, which at most doubles it, and takes 64 KiB.
PAGE_BYTES = 24 * 1024
MAX_ROW_BYTES = 30 * 1024
PAGE_S = 0.25
# Half of a message's time slice, because one step may go beyond it.
SLICE_S = 0.0005
#: Connections are sorted in runs of so many.
RUN_ROWS = 64
# The arbiter gives up a page after two seconds. What it does not ask for is forgotten after this time.
UNREAD_S = 10.0
# The most answers that are not read to their end; a client of the control socket has one.
MAX_UNREAD = 32
MAX_ERROR = 1000
# How often an answer is sent again that the channel has no room for, and how long to wait before that.
ATTEMPTS, RETRY_S = 100, 0.1

Servers = Callable[[], Iterable[tuple[str, WorkerServer]]]
Rows = Iterator[Any]  # None: nothing was found in this time slice, and the search goes on
Place = tuple[WorkerServer, str, Connection]  # the server, the address of its listener, the connection


#: Instead of a row: there is none for now, and the page ends.
PAUSE = object()
_NONE: Mapping[str, float] = {}


class Refused(Exception):
    """A question that cannot be answered now, for a reason that is no mistake; the text is the answer."""


@dataclass
class _Unread:
    """The pages of an answer that are not asked for yet."""

    rows: Rows
    asked_at: float
    keep_s: float | None  # how long; None: UNREAD_S
    next_row: str | None = None  # one that did not fit into the last page


class Inspection:
    """Answers questions. close() ends what is still being answered.

    Args:
        channel: to the arbiter.
        servers: returns the servers of this worker, with the addresses of their listeners.
        subjects: further questions, by name: functions of the arguments that return the rows of the answer.
        keep_s: for some of them, how long an answer is kept that nobody reads, in seconds; default UNREAD_S.
    """

    def __init__(
        self,
        channel: Channel,
        servers: Servers,
        subjects: Mapping[str, Callable[[Mapping[str, Any]], Rows]],
        keep_s: Mapping[str, float] = _NONE,
    ) -> None:
        self._channel = channel
        self._servers = servers
        self._subjects = {
            "connections": self._list,
            "connection": self._describe,
            "close": self._close,
            **subjects,
        }
        self._keep_s = keep_s
        self._unread: dict[int, _Unread] = {}
        self._numbers = itertools.count(1)
        self._fairness = Fairness()
        self._slice_ends = 0.0
        self._greenlets = Group()

    def ask(self, text: str) -> None:
        """Answer a QUESTION, in a greenlet of its own."""
        question = json.loads(text)
        self._greenlets.spawn(self._answer, question["number"], question["subject"], question["arguments"])

    def forget_unread(self) -> None:
        """Forget pages that nobody asks for any more: they hold connections. Call it once a second."""
        now = time.monotonic()
        keep_s = {number: UNREAD_S if each.keep_s is None else each.keep_s for number, each in self._unread.items()}
        for number in [number for number, each in self._unread.items() if now - each.asked_at > keep_s[number]]:
            del self._unread[number]

    def close(self) -> None:
        self._greenlets.kill()
        self._fairness.close()

    def _answer(self, number: int, subject: str, arguments: Mapping[str, Any]) -> None:
        """Send an answer in any case: the arbiter asks nothing more before it has come."""
        try:
            text = f'{{"number": {number}, "result": {self._page_of(subject, arguments)}}}'
        except gevent.GreenletExit:
            raise
        except Refused as refusal:
            text = json.dumps({"number": number, "error": str(refusal)[:MAX_ERROR]})
        except BaseException as error:
            log.exception("a question of the control socket failed: %s", subject)
            text = json.dumps({"number": number, "error": described(error)[:MAX_ERROR]})
        for _ in range(ATTEMPTS):
            if self._channel.send(ANSWER, [text]):
                break
            gevent.sleep(RETRY_S)

    def _page_of(self, subject: str, arguments: Mapping[str, Any]) -> str:
        if subject == "forget":  # closes the generator of its rows
            self._unread.pop(arguments["more"], None)
            return '{"rows": [], "more": null}'
        if subject != "next page":
            while len(self._unread) >= MAX_UNREAD:
                del self._unread[min(self._unread, key=lambda each: self._unread[each].asked_at)]
            number = next(self._numbers)
            self._unread[number] = _Unread(
                self._subjects[subject](arguments), time.monotonic(), self._keep_s.get(subject)
            )
            return self._page(number)
        if arguments["more"] not in self._unread:
            raise Refused("the answer was not read for some time, and is forgotten")
        return self._page(arguments["more"])

    def _page(self, number: int) -> str:
        """The next rows as JSON; `more`: the number under which there are further ones, null if there are none."""
        unread = self._unread[number]
        try:
            rows, is_last = self._next_rows(unread)
        except BaseException:
            self._unread.pop(number, None)
            raise
        unread.asked_at = time.monotonic()
        if is_last:
            self._unread.pop(number, None)
        more = "null" if is_last else number
        return f'{{"rows": [{", ".join(rows)}], "more": {more}}}'

    def _next_rows(self, unread: _Unread) -> tuple[list[str], bool]:
        """The rows of the next page, each as JSON; whether they are the last ones."""
        rows = [] if unread.next_row is None else [unread.next_row]
        unread.next_row = None
        size = sum(map(len, rows))
        until = time.monotonic() + PAGE_S
        for row in unread.rows:
            if row is PAUSE:
                return rows, False
            if row is not None:
                text = json.dumps(row)
                if len(text) > MAX_ROW_BYTES:
                    raise ValueError(f"a row of {len(text)} bytes is too long for the channel")
                size += len(text)
                if rows and size > MAX_ROW_BYTES:
                    unread.next_row = text
                    return rows, False
                rows.append(text)
            else:
                self._slice_was_over()
            if size >= PAGE_BYTES or time.monotonic() > until:
                return rows, False
        return rows, True

    def _slice_was_over(self) -> bool:
        """Call it after each step: at the end of a time slice it waits until the connections had a turn."""
        if time.perf_counter() < self._slice_ends:
            return False
        self._fairness.yield_to_others()
        self._slice_ends = time.perf_counter() + SLICE_S
        return True

    def _selected(self, where: str) -> Iterator[tuple[Place, dict[str, Any]] | None]:
        """The connections that fulfil the conditions, with their facts; None after each time slice."""
        selection = Selection.parse(where)
        for listener, server in list(self._servers()):
            rest = server.connections
            while rest:
                conn = rest.pop()  # thousands that are closed meanwhile are not freed at once, which takes 10 ms
                if self._slice_was_over():
                    yield None
                if conn.state is State.CLOSED or conn.is_probe:
                    continue
                facts = facts_of(conn, listener, time.monotonic())
                if selection.selects(facts):
                    yield (server, listener, conn), facts

    def _list(self, arguments: Mapping[str, Any]) -> Rows:
        """Rows of connections, the one with the largest value first.

        They are sorted in short runs, which are merged while they are read: sorting 15,000 at once takes 4 ms.
        The runs have numbers instead of connections, so that the garbage collector has nothing to visit in them: with
        connections it takes 1 ms at a time.
        """
        conns: list[Connection | None] = []
        listeners: list[str] = []
        runs: list[list[tuple[float, int]]] = [[]]
        key = NUMBERS[arguments["sort"]]
        for found in self._selected(arguments["where"]):
            if found is None:
                yield None
                continue
            (_, listener, conn), facts = found
            value = facts[key]
            runs[-1].append((1.0 if value is None else -value, len(conns)))
            conns.append(conn)
            listeners.append(listener)
            if len(runs[-1]) >= RUN_ROWS:
                runs[-1].sort()
                runs.append([])
        runs[-1].sort()
        left = arguments["limit"]
        for _, number in heapq.merge(*runs):
            found_conn, conns[number] = conns[number], None
            if self._slice_was_over():
                yield None
            if found_conn is not None and found_conn.state is not State.CLOSED:
                yield row_of(found_conn, listeners[number], time.monotonic())
                left -= 1
            if left <= 0:
                break
        while runs or conns:  # freeing all at once takes milliseconds, too
            del runs[-1:], conns[-RUN_ROWS:]
            if self._slice_was_over():
                yield None

    def _describe(self, arguments: Mapping[str, Any]) -> Rows:
        for found in self._selected(f"id={arguments['connection']}"):
            if found is None:
                yield None
            else:
                (_, listener, conn), _ = found
                yield details_of(conn, listener, time.monotonic())
                return

    def _close(self, arguments: Mapping[str, Any]) -> Rows:
        """Close the connections, with their ids as rows."""
        for found in self._selected(arguments["where"]):
            if found is None:
                yield None
                continue
            (server, _, conn), _ = found
            if conn.close_reason is None or arguments["now"]:
                server.close_connection(conn, at_once=arguments["now"])
                yield conn.id
