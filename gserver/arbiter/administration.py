"""Carries out the commands of the control socket: see gserver.control.protocol.COMMANDS.

What the arbiter knows is answered at once. Questions about connections are passed on to the workers, and nothing waits
for a worker: a reply is sent when the answers are there, or when their time is over.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gserver
from gserver.arbiter.connection_listing import ConnectionListing
from gserver.arbiter.listeners import title_of
from gserver.arbiter.recordings import Recordings
from gserver.arbiter.row_stream import RowStream
from gserver.arbiter.scoreboard import Scoreboard
from gserver.arbiter.server_status import ReloadRecord, status_of, worker_rows
from gserver.arbiter.supervision import Stage, Supervision
from gserver.arbiter.worker_questions import Answer, WorkerQuestions
from gserver.config.live_settings import LIVE, plain_values
from gserver.config.settings import MAX_WORKERS, Settings, declared
from gserver.config.sources import as_text, as_text_without_secrets
from gserver.control.arguments import MAX_ROWS
from gserver.control.control_socket import Reply
from gserver.control.protocol import Problem, Request
from gserver.control.selection import Selection
from gserver.errors import ConfigError

__all__ = ["Administration", "Server"]

log = logging.getLogger("gserver.control")

DEFAULT_SORT = "age"
DEFAULT_PROFILE_S = 10.0


class Server(Protocol):
    """What commands need of the arbiter."""

    settings: Settings
    name: str

    @property
    def supervision(self) -> Supervision: ...

    @property
    def scoreboard(self) -> Scoreboard: ...

    def reload(self) -> None: ...

    def resize(self, target: int) -> None: ...

    def stop(self, quick: bool) -> None: ...

    def start_upgrade(self) -> int | None: ...

    def cancel_upgrade(self) -> int | None: ...

    @property
    def last_upgrade(self) -> dict[str, Any] | None: ...

    @property
    def is_upgrading(self) -> bool: ...

    def dump_stacks(self, pid: int) -> None: ...

    def change_live(self, values: Mapping[str, Any]) -> None: ...

    def listener_rows(self) -> list[dict[str, Any]]: ...


class Administration:
    """The commands of one arbiter."""

    def __init__(self, server: Server, questions: WorkerQuestions) -> None:
        self._server = server
        self._questions = questions
        self._recordings = Recordings(questions)
        self._started_at = time.monotonic()
        self._reloads = ReloadRecord()
        self._awaits_reload: list[Reply] = []
        self._await_stacks: list[tuple[int, Reply]] = []  # with the worker
        self._commands: dict[str, Callable[[Reply, Mapping[str, Any]], None]] = {
            "status": self._status,
            "workers": self._workers,
            "add_worker": self._add_worker,
            "remove_worker": self._remove_worker,
            "restart_worker": self._restart_worker,
            "listeners": self._listeners,
            "connections": self._connections,
            "connection": self._connection,
            "close": self._close,
            "ready": self._ready,
            "reload": self._reload,
            "stop": self._stop,
            "settings": self._list_settings,
            "set": self._set,
            "upgrade": self._upgrade,
            "cancel_upgrade": self._cancel_upgrade,
            "finish_upgrade": self._finish_upgrade,
            "stacks": self._stacks,
            "profile": self._profile,
            "record": self._record,
            "end_record": self._end_record,
        }

    def run(self, request: Request, reply: Reply) -> None:
        """Carry out a request; see gserver.control.control_socket.Commands."""
        self._commands[request.command](reply, request.arguments)

    # The server

    def _status(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        server = self._server
        reply.result(
            version=gserver.__version__,
            pid=os.getpid(),
            name=server.name,
            uptime_s=time.monotonic() - self._started_at,
            listeners=list(map(title_of, server.listener_rows())),
            upgrade=server.last_upgrade,
            **status_of(server.settings, server.supervision, server.scoreboard, self._reloads),
        )

    def _workers(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        rows = worker_rows(self._server.supervision, self._server.scoreboard)
        reply.rows(rows, lambda: reply.result(count=len(rows)))

    def _listeners(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        rows = self._server.listener_rows()
        reply.rows(rows, lambda: reply.result(count=len(rows)))

    def _ready(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        self._server.scoreboard.server.is_taken_out = not arguments["on"]
        reply.result(ready=arguments["on"])

    def _reload(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        self._refuse_while_going_away()
        self._awaits_reload.append(reply)
        self._server.reload()

    def reload_began(self) -> None:
        self._reloads.began()

    def reload_ended(self, failure: str | None, is_live: bool = False) -> None:
        """A reload has ended, also one that HUP began: send the result to those that wait for it."""
        self._reloads.ended(failure, is_live)
        waiting, self._awaits_reload = self._awaits_reload, []
        for reply in waiting:
            if failure is None:
                reply.result(**self._reloads.last or {})
            else:
                reply.error(Problem("failed", f"the reload failed: {failure}"))

    def server_stopped(self) -> None:
        """No reload will end any more."""
        waiting, self._awaits_reload = self._awaits_reload, []
        for reply in waiting:
            reply.error(Problem("failed", "the server has stopped"))

    def _stop(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        quick = arguments.get("quick", False)
        self._server.stop(quick)
        reply.result(pid=os.getpid(), quick=quick)

    def _upgrade(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        server = self._server
        self._refuse_while_going_away()
        if server.is_upgrading:
            raise Problem("failed", f"an upgrade is under way: {_partner(server.last_upgrade)}")
        log.info("Control: upgrade")
        pid = server.start_upgrade()
        if pid is None:
            raise Problem("failed", "no new arbiter can be started, see the error log")
        reply.result(pid=pid)

    def _cancel_upgrade(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        pid = self._server.cancel_upgrade()
        if pid is None:
            raise Problem("failed", "no upgrade is under way that could be cancelled")
        log.info("Control: cancel the upgrade to %d", pid)
        reply.result(pid=pid)

    def _finish_upgrade(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        """Stop as TERM does, but never the only server: the new arbiter may have ended meanwhile."""
        last = self._server.last_upgrade
        if last is None or not last["is_running"]:
            why = "none was started" if last is None else last["failed_because"]
            raise Problem("failed", f"there is no new arbiter: {why}")
        self._server.stop(quick=False)
        reply.result(pid=os.getpid())

    # Settings

    def _list_settings(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        settings = self._server.settings
        rows = [
            {
                "name": each.name,
                "value": as_text_without_secrets(each, getattr(settings, each.name)),
                "default": as_text(each.default),
                "is_default": getattr(settings, each.name) == each.default,
                "is_live": each.name in LIVE,
            }
            for each in declared()
        ]
        reply.rows(rows, lambda: reply.result(count=len(rows)))

    def _set(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        self._refuse_while_stopping()
        values = arguments["values"]
        try:
            self._server.change_live(values)
        except ConfigError as error:
            raise Problem("invalid_argument", str(error)) from None
        log.info("Control: set %s", values)
        reply.result(values=plain_values(self._server.settings, values))

    # Workers

    def _add_worker(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        self._resize(reply, self._server.supervision.target + 1)

    def _remove_worker(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        self._resize(reply, self._server.supervision.target - 1)

    def _resize(self, reply: Reply, target: int) -> None:
        if not 1 <= target <= MAX_WORKERS:
            raise Problem("failed", f"the number of workers would be {target}, must be from 1 to {MAX_WORKERS}")
        self._refuse_while_stopping()
        self._server.resize(target)
        reply.result(target=target)

    def _restart_worker(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        pid = self._worker(arguments["pid"])
        self._refuse_while_stopping()
        if arguments.get("now", False):
            log.info("Control: kill and replace worker %d", pid)
            self._server.supervision.request_kill(pid, time.monotonic())
        else:
            self._server.supervision.request_recycling(pid)
        reply.result(pid=pid)

    def _refuse_while_stopping(self) -> None:
        if self._server.supervision.is_stopping:
            raise Problem("failed", "the server is stopping")

    def _refuse_while_going_away(self) -> None:
        """Refuse what takes time: in the shutdown delay the arbiter begins nothing of it."""
        self._refuse_while_stopping()
        if self._server.supervision.is_leaving:
            raise Problem("failed", "the server is about to stop")

    def _worker(self, pid: int) -> int:
        if pid not in self._server.supervision:
            known = ", ".join(map(str, self._answering()))
            raise Problem("not_found", f"there is no worker {pid}, must be one of: {known or 'none'}")
        return pid

    def _answering(self) -> list[int]:
        """The workers that may have connections, and answer questions."""
        return [child.pid for child in self._server.supervision if child.stage in (Stage.SERVING, Stage.DRAINING)]

    def _asked(self, selection: Selection) -> list[int]:
        """The workers that have the selected connections. The id of a connection begins with the pid of its worker."""
        pids = self._answering()
        if selection.connection is not None:
            of, _, _ = selection.connection.partition("-")
            pids = [pid for pid in pids if str(pid) == of]
        if selection.worker is not None:
            pids = [pid for pid in pids if pid == selection.worker]
        return pids

    # What a worker's code is doing

    def _stacks(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        pid = self._worker(arguments["pid"])
        rows = worker_rows(self._server.supervision, self._server.scoreboard)
        if any(row["pid"] == pid and row["stuck"] for row in rows):
            self._ask_stuck(pid, reply)
        else:
            overdue = functools.partial(self._ask_stuck, pid, reply)
            RowStream(self._questions, reply, pid, "stacks", {}, overdue).begin()

    def _ask_stuck(self, pid: int, reply: Reply) -> None:
        """A signal handler of the worker writes its stacks to the error log, and sends them, unless C code runs.

        A question makes that wait end: the worker answers it only if it goes on.
        """
        self._await_stacks.append((pid, reply))
        self._server.dump_stacks(pid)

        def gave_up(answer: Answer) -> None:
            if (pid, reply) in self._await_stacks:
                self._await_stacks.remove((pid, reply))
                text = f"worker {pid} does not answer: it writes its stacks to the error log, as soon as it can"
                reply.error(Problem("no_answer", text))

        self._questions.ask(pid, "stacks", {}, time.monotonic(), gave_up)

    def stacks_written(self, pid: int, text: str) -> None:
        """A worker that is stuck has sent its stacks."""
        waiting = [reply for of, reply in self._await_stacks if of == pid]
        self._await_stacks = [each for each in self._await_stacks if each[0] != pid]
        for reply in waiting:
            reply.rows([text if text.endswith("\n") else f"{text}\n"], functools.partial(reply.result, pid=pid))

    def _profile(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        pid = self._worker(arguments["pid"])
        asked = {"seconds": arguments.get("seconds", DEFAULT_PROFILE_S)}
        RowStream(self._questions, reply, pid, "profile", asked).begin()

    def _record(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        name = arguments.get("connection")
        if (name is None) == ("address" not in arguments):
            raise Problem("invalid_argument", "record needs one of the arguments connection and address")
        log.info("Control: record %s", dict(arguments))
        pids = self._answering() if name is None else self._asked(Selection(connection=name))
        if name is not None and not pids:
            raise _unknown(name)
        self._recordings.begin(reply, pids, arguments)

    def _end_record(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        self._recordings.end(arguments["recording"])
        reply.result(recording=arguments["recording"])

    def worker_will_serve(self, pid: int) -> None:
        """A worker gets its listeners now."""
        self._recordings.worker_will_serve(pid)

    # Connections

    def _connections(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        where = arguments.get("where", "")
        pids = self._asked(Selection.parse(where))
        sort, limit = arguments.get("sort", DEFAULT_SORT), arguments.get("limit", MAX_ROWS)
        ConnectionListing(self._questions, reply, pids, where, sort, limit).begin()

    def _connection(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        name = arguments["connection"]
        unknown = _unknown(name)
        pids = self._asked(Selection(connection=name))
        if not pids:
            raise unknown

        def answered(answers: Mapping[int, Answer]) -> None:
            (answer,) = answers.values()
            if answer.problem is not None:
                reply.error(Problem("no_answer", f"worker {pids[0]}: {answer.problem}"))
            elif not answer.rows or not isinstance(answer.rows[0], dict):
                reply.error(unknown)
            else:
                reply.result(**answer.rows[0])

        self._ask_all(pids, "connection", {"connection": name}, answered)

    def _close(self, reply: Reply, arguments: Mapping[str, Any]) -> None:
        selection = Selection.parse(arguments["where"])
        if not selection.conditions:
            raise Problem("invalid_argument", "close needs a condition: age>0 selects every connection")
        asked = {"where": arguments["where"], "now": arguments.get("now", False)}
        log.info("Control: close %s", asked)

        def answered(answers: Mapping[int, Answer]) -> None:
            closed = sum(len(answer.rows) for answer in answers.values())
            if closed == 0 and selection.connection is not None and not _missing(answers):
                reply.error(Problem("not_found", f"there is no connection {selection.connection!r}"))
            else:
                reply.result(closed=closed, missing=_missing(answers))

        self._ask_all(self._asked(selection), "close", asked, answered)

    def _ask_all(
        self,
        pids: Sequence[int],
        subject: str,
        arguments: Mapping[str, Any],
        answered: Callable[[Mapping[int, Answer]], None],
    ) -> None:
        """Ask several workers, and call `answered` with the answers of all, by pid."""
        answers: dict[int, Answer] = {}
        if not pids:
            answered(answers)

        def take(pid: int, answer: Answer) -> None:
            answers[pid] = answer
            if len(answers) == len(pids):
                answered(answers)

        for pid in pids:
            self._questions.ask_all_pages(pid, subject, arguments, time.monotonic, functools.partial(take, pid))


def _unknown(connection: str) -> Problem:
    return Problem("not_found", f"there is no connection {connection!r}")


def _partner(upgrade: Mapping[str, Any] | None) -> str:
    """The other arbiter of an upgrade, and what an operator can do about it."""
    if upgrade is None or not upgrade["is_running"]:
        return "this server was started by one, and the old server still runs"
    return f"a new arbiter runs with pid {upgrade['pid']}; stop this server to finish, or that one to give up"


def _missing(answers: Mapping[int, Answer]) -> list[dict[str, Any]]:
    return [{"pid": pid, "problem": answer.problem} for pid, answer in answers.items() if answer.problem is not None]
