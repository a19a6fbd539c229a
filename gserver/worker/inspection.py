"""Answers the arbiter's questions about this worker: lists, describes and closes connections, for the control socket.

A question is answered by a greenlet of its own, which lets the connections run after each SLICE_S: so an operator's
listing of 15,000 connections costs the peers no more than a message of one of them. What takes longer than one message
of the channel, such as a long listing, is answered page by page, when the arbiter asks for the next page.
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

__all__ = ["Inspection"]

log = logging.getLogger("gserver.worker")

#: After so much time, in seconds, the connections have a turn.
SLICE_S = 0.0005
# A row has some 400 bytes, so a page leaves half of the channel's 64 KiB free.
PAGE_ROWS = 64
# The arbiter gives up a page after two seconds. What it does not ask for is forgotten after this time.
UNREAD_S = 10.0
# A page of text, such as stacks, in characters.
PAGE_TEXT = 24 * 1024

Servers = Callable[[], Iterable[tuple[str, WorkerServer]]]
Place = tuple[WorkerServer, str, Connection]  # the server, the address of its listener, the connection


@dataclass
class _Unread:
    """The pages of an answer that are not asked for yet."""

    rows: Iterator[Any]
    asked_at: float


class Inspection:
    """Answers questions. close() ends what is still being answered.

    Args:
        channel: to the arbiter.
        servers: returns the servers of this worker, with the addresses of their listeners.
        subjects: further questions, by name: functions of the arguments that return the result, or an iterator over
            pieces of text, which are passed on page by page.
    """

    def __init__(
        self, channel: Channel, servers: Servers, subjects: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    ) -> None:
        self._channel = channel
        self._servers = servers
        self._subjects = {
            "connections": self._list,
            "connection": self._describe,
            "close": self._close,
            "next page": self._next_page,
            **subjects,
        }
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
        oldest = time.monotonic() - UNREAD_S
        for number in [number for number, unread in self._unread.items() if unread.asked_at < oldest]:
            del self._unread[number]

    def close(self) -> None:
        self._greenlets.kill()
        self._fairness.close()

    def _answer(self, number: int, subject: str, arguments: Mapping[str, Any]) -> None:
        try:
            result = self._subjects[subject](arguments)
            content = {"number": number, "result": result}
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            log.exception("a question of the control socket failed: %s", subject)
            content = {"number": number, "error": described(error)}
        self._channel.send(ANSWER, [json.dumps(content)])

    def _let_others_run(self) -> None:
        """Call it after each step: at the end of a slice, it waits until the connections had a turn."""
        if time.perf_counter() >= self._slice_ends:
            self._fairness.yield_to_others()
            self._slice_ends = time.perf_counter() + SLICE_S

    def _selected(self, selection: Selection) -> Iterator[tuple[Place, dict[str, Any]]]:
        for listener, server in list(self._servers()):
            for conn in server.connections:
                self._let_others_run()
                if conn.state is State.CLOSED or conn.is_probe:
                    continue
                facts = facts_of(conn, listener, time.monotonic())
                if selection.selects(facts):
                    yield (server, listener, conn), facts

    # Listing

    def _list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        rows = self._sorted_rows(Selection.parse(arguments["where"]), NUMBERS[arguments["sort"]])
        return self._first_page(itertools.islice(rows, arguments["limit"]))

    def _sorted_rows(self, selection: Selection, key: str) -> Iterator[dict[str, Any]]:
        """The rows, the one with the largest value first. Sorted in short runs, which are merged while they are read.

        Sorting all at once would be one slice of some 10 ms for 15,000 connections.
        """
        runs: list[list[tuple[float, int, Place]]] = [[]]
        for number, (place, facts) in enumerate(self._selected(selection)):
            value = facts[key]
            runs[-1].append((1.0 if value is None else -value, number, place))
            if len(runs[-1]) >= PAGE_ROWS:
                runs[-1].sort()
                runs.append([])
        runs[-1].sort()
        for _, _, (_, listener, conn) in heapq.merge(*runs):
            self._let_others_run()
            if conn.state is not State.CLOSED:
                yield row_of(conn, listener, time.monotonic())

    def _first_page(self, rows: Iterator[Any]) -> dict[str, Any]:
        number = next(self._numbers)
        self._unread[number] = _Unread(rows, time.monotonic())
        return self._page(number)

    def _next_page(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if arguments["more"] not in self._unread:
            raise LookupError("the listing was not read for some time, and is forgotten")
        return self._page(arguments["more"])

    def _page(self, number: int) -> dict[str, Any]:
        """The next rows, and under which number there are more; null if there are none."""
        unread = self._unread[number]
        unread.asked_at = time.monotonic()
        rows = list(itertools.islice(unread.rows, PAGE_ROWS))
        if len(rows) < PAGE_ROWS:
            self._unread.pop(number, None)
            return {"rows": rows, "more": None}
        return {"rows": rows, "more": number}

    # One connection, and closing

    def _describe(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        for (_, listener, conn), _ in self._selected(Selection.parse(f"id={arguments['connection']}")):
            return {"connection": details_of(conn, listener, time.monotonic())}
        return {"connection": None}

    def _close(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        closed = 0
        for (server, _, conn), _ in self._selected(Selection.parse(arguments["where"])):
            if conn.close_reason is None or arguments["now"]:
                server.close_connection(conn, at_once=arguments["now"])
                closed += 1
        return {"closed": closed}
