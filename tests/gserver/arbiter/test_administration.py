"""The commands of the control socket, with a server and workers that are made up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gserver.arbiter.administration import Administration
from gserver.arbiter.scoreboard import STUCK_S, Scoreboard
from gserver.arbiter.supervision import Supervision
from gserver.arbiter.worker_questions import ANSWER_S, WorkerQuestions
from gserver.config.settings import MAX_WORKERS, Settings
from gserver.control.protocol import Problem, parse_request

ONE, OTHER, STARTING = 101, 102, 103


LISTENER = {"name": "127.0.0.1:7000", "bind": "127.0.0.1:7000", "address": "127.0.0.1:7000"}


class Reply:
    def __init__(self) -> None:
        self.is_wanted = True
        self.listed: list[Any] = []
        self.answer: dict[str, Any] | None = None
        self.problem: Problem | None = None

    def rows(self, rows: Sequence[Any], sent: Callable[[], None]) -> None:
        self.listed += rows
        sent()

    def result(self, /, **fields: Any) -> None:
        assert self.answer is None
        self.answer = fields

    def error(self, problem: Problem) -> None:
        assert self.answer is None
        self.problem = problem


class Server:
    """Two workers serve, and one starts. Questions to them stay unanswered until answer()."""

    def __init__(self) -> None:
        self.settings = Settings.checked({})
        self.name = "app:app"
        self.scoreboard = Scoreboard(1000)
        self.supervision = Supervision(3)
        self.calls: list[Any] = []
        self.new_arbiter: int | None = None
        self.is_upgrading = False
        self.last_upgrade: dict[str, Any] | None = None
        self.asked: list[tuple[int, dict[str, Any]]] = []
        for age, pid in enumerate((ONE, OTHER, STARTING), 1):
            slot = self.scoreboard.free_slot()
            slot.reserve(age=age)
            slot.assign(pid)
            self.supervision.spawned(pid, 0.0, age=age)
        for pid in (ONE, OTHER):
            self.supervision.became_ready(pid, 0.0)
        self.supervision.decide(0.0, {})
        self.questions = WorkerQuestions(self.send)
        self.administration = Administration(self, self.questions)

    def send(self, pid: int, text: str) -> bool:
        self.asked.append((pid, json.loads(text)))
        return True

    def reload(self) -> None:
        self.calls.append("reload")

    def resize(self, target: int) -> None:
        self.calls.append(("resize", target))

    def stop(self, quick: bool) -> None:
        self.calls.append(("stop", quick))

    def start_upgrade(self) -> int | None:
        self.calls.append("upgrade")
        return self.new_arbiter

    def cancel_upgrade(self) -> int | None:
        self.calls.append("cancel")
        return self.new_arbiter

    def dump_stacks(self, pid: int) -> None:
        self.calls.append(("dump", pid))

    def change_live(self, values: Mapping[str, Any]) -> None:
        self.calls.append(("set", dict(values)))

    def listener_rows(self) -> list[dict[str, Any]]:
        return [LISTENER, {**LISTENER, "name": "admin"}]

    def run(self, command: str, **arguments: Any) -> Reply:
        reply = Reply()
        request = parse_request(json.dumps({"command": command, **arguments}).encode())
        try:
            self.administration.run(request, reply)
        except Problem as problem:
            reply.error(problem)
        return reply

    def answer(self, **rows: Any) -> None:
        """Answer the questions of all workers: rows by worker, as w101=[...]."""
        for pid, question in self.asked:
            found = rows.get(f"w{pid}", [])
            content = {"error": found} if isinstance(found, str) else {"result": {"rows": found, "more": None}}
            self.questions.receive(pid, json.dumps({"number": question["number"], **content}))
        self.asked.clear()


@pytest.fixture
def server() -> Server:
    return Server()


def code_of(reply: Reply) -> tuple[str, str]:
    assert reply.problem is not None
    return reply.problem.code, str(reply.problem)


def make_stuck(server: Server) -> None:
    (slot,) = [slot for slot in server.scoreboard.used_slots() if slot.pid == OTHER]
    slot.heartbeat_at = time.monotonic() - 2 * STUCK_S


def test_a_stuck_worker_sends_its_stacks_from_a_signal_handler(server: Server) -> None:
    make_stuck(server)
    one, other = server.run("stacks", pid=OTHER), server.run("stacks", pid=OTHER)
    server.administration.stacks_written(ONE, "of another worker")
    server.administration.stacks_written(OTHER, "Running greenlet:")
    server.questions.expire(time.monotonic() + 2 * ANSWER_S)

    assert server.calls == [("dump", OTHER), ("dump", OTHER)]
    assert (one.listed, one.answer, one.problem) == (["Running greenlet:\n"], {"pid": OTHER}, None)
    assert (other.listed, other.problem) == (one.listed, None)


def test_a_worker_that_is_stuck_in_c_code_sends_no_stacks(server: Server) -> None:
    make_stuck(server)
    reply = server.run("stacks", pid=OTHER)
    server.questions.expire(time.monotonic() + 2 * ANSWER_S)
    server.administration.stacks_written(OTHER, "too late")

    assert code_of(reply)[0] == "no_answer"
    assert f"worker {OTHER} does not answer: " in code_of(reply)[1]
    assert reply.listed == []


# The server


def test_status(server: Server) -> None:
    answer = server.run("status").answer
    assert answer is not None

    assert (answer["pid"], answer["name"], answer["ready"]) == (os.getpid(), "app:app", True)
    assert answer["listeners"] == ["127.0.0.1:7000", "admin at 127.0.0.1:7000"]
    assert answer["workers"]["serving"] == 2
    assert answer["uptime_s"] >= 0


def test_ready_off_is_the_reason_why_it_is_not_ready(server: Server) -> None:
    assert server.run("ready", on=False).answer == {"ready": False}
    taken_out = server.run("status").answer
    assert server.scoreboard.server.is_taken_out
    server.run("ready", on=True)
    restored = server.run("status").answer

    assert taken_out is not None
    assert (taken_out["ready"], taken_out["not_ready_because"]) == (
        False,
        "the operator has taken the server out of service",
    )
    assert restored is not None
    assert (restored["ready"], restored["not_ready_because"]) == (True, None)


def test_workers_and_listeners_are_rows(server: Server) -> None:
    workers, listeners = server.run("workers"), server.run("listeners")

    assert [row["pid"] for row in workers.listed] == [ONE, OTHER, STARTING]
    assert workers.answer == {"count": 3}
    assert (listeners.listed, listeners.answer) == (server.listener_rows(), {"count": 2})


def test_all_that_wait_for_a_reload_get_its_result(server: Server) -> None:
    one, other = server.run("reload"), server.run("reload")
    server.administration.reload_began()
    assert one.answer is None
    server.administration.reload_ended(None)
    late = server.run("reload")
    server.administration.reload_ended("SyntaxError")

    assert server.calls == ["reload"] * 3
    for reply in (one, other):
        assert reply.answer is not None
        assert (reply.answer["outcome"], reply.answer["kind"]) == ("done", "new workers")
    assert code_of(late) == ("failed", "the reload failed: SyntaxError")
    server.administration.reload_ended(None)  # one of HUP: nobody waits


def test_a_reload_that_will_not_end(server: Server) -> None:
    waiting = server.run("reload")
    server.administration.server_stopped()

    assert code_of(waiting) == ("failed", "the server has stopped")


@pytest.mark.parametrize("quick", [False, True])
def test_stop(server: Server, quick: bool) -> None:
    assert server.run("stop", quick=quick).answer == {"pid": os.getpid(), "quick": quick}
    assert server.calls == [("stop", quick)]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("reload", {}), ("add_worker", {}), ("remove_worker", {}), ("restart_worker", {"pid": ONE})],
)
def test_a_server_that_stops_changes_nothing_else(server: Server, command: str, arguments: dict[str, Any]) -> None:
    server.supervision.stop(0.0, 30.0)

    assert code_of(server.run(command, **arguments)) == ("failed", "the server is stopping")
    assert server.calls == []
    assert server.run("status").answer is not None


# Upgrades

RUNNING = {"pid": 7, "is_running": True, "failed_because": None}


def test_an_upgrade_is_started(server: Server) -> None:
    server.new_arbiter = 7

    assert server.run("upgrade").answer == {"pid": 7}
    assert server.calls == ["upgrade"]


def test_status_has_what_became_of_the_upgrade(server: Server) -> None:
    server.last_upgrade = RUNNING
    answer = server.run("status").answer

    assert answer is not None
    assert answer["upgrade"] == RUNNING


def test_an_upgrade_that_cannot_be_started(server: Server) -> None:
    assert code_of(server.run("upgrade")) == ("failed", "no new arbiter can be started, see the error log")


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (RUNNING, "a new arbiter runs with pid 7; stop this server to finish, or that one to give up"),
        (None, "this server was started by one, and the old server still runs"),
        ({**RUNNING, "is_running": False}, "this server was started by one, and the old server still runs"),
    ],
)
def test_one_upgrade_at_a_time(server: Server, last: dict[str, Any] | None, text: str) -> None:
    server.is_upgrading, server.last_upgrade = True, last

    assert code_of(server.run("upgrade")) == ("failed", f"an upgrade is under way: {text}")
    assert server.calls == []


def test_an_upgrade_is_finished_only_if_the_new_arbiter_runs(server: Server) -> None:
    assert code_of(server.run("finish_upgrade")) == ("failed", "there is no new arbiter: none was started")
    server.last_upgrade = {"pid": 7, "is_running": False, "failed_because": "it ended with status 1"}
    assert code_of(server.run("finish_upgrade")) == ("failed", "there is no new arbiter: it ended with status 1")
    assert server.calls == []
    server.last_upgrade = RUNNING
    assert server.run("finish_upgrade").answer == {"pid": os.getpid()}
    assert server.calls == [("stop", False)]


def test_an_upgrade_is_cancelled(server: Server) -> None:
    assert code_of(server.run("cancel_upgrade")) == ("failed", "no upgrade is under way that could be cancelled")
    server.new_arbiter = 7
    assert server.run("cancel_upgrade").answer == {"pid": 7}


@pytest.mark.parametrize("command", ["reload", "upgrade"])
def test_in_the_shutdown_delay_nothing_long_begins(server: Server, command: str) -> None:
    server.supervision.is_leaving = True

    assert code_of(server.run(command)) == ("failed", "the server is about to stop")
    assert server.calls == []


# What a worker's code is doing


@pytest.mark.parametrize("command", ["stacks", "profile"])
def test_stacks_and_profiles_are_rows_of_one_worker(server: Server, command: str) -> None:
    reply = server.run(command, pid=ONE)
    assert [(pid, question["subject"]) for pid, question in server.asked] == [(ONE, command)]
    server.answer(w101=["text", {"samples": 3}])

    assert (reply.listed, reply.answer) == (["text"], {"pid": ONE, "samples": 3})


def test_a_profile_lasts_ten_seconds_by_default(server: Server) -> None:
    server.run("profile", pid=ONE)
    server.run("profile", pid=OTHER, seconds=3)

    assert [question["arguments"] for _, question in server.asked] == [{"seconds": 10.0}, {"seconds": 3.0}]


@pytest.mark.parametrize("command", ["stacks", "profile"])
def test_an_unknown_worker_has_neither(server: Server, command: str) -> None:
    text = f"there is no worker 5, must be one of: {ONE}, {OTHER}"

    assert code_of(server.run(command, pid=5)) == ("not_found", text)


def test_a_worker_that_does_not_answer_sends_its_stacks_from_a_signal_handler(server: Server) -> None:
    reply, other = server.run("stacks", pid=ONE), server.run("stacks", pid=OTHER)
    assert server.questions.wakes_at is not None
    server.questions.expire(server.questions.wakes_at + 0.1)
    assert server.calls == [("dump", ONE), ("dump", OTHER)]
    server.administration.stacks_written(ONE, "it computes")
    server.questions.expire(server.questions.wakes_at + ANSWER_S)

    assert (reply.listed, reply.answer) == (["it computes\n"], {"pid": ONE})
    assert f"worker {OTHER} does not answer: " in code_of(other)[1]


# Workers


def test_the_number_of_workers_changes_by_one(server: Server) -> None:
    assert server.run("add_worker").answer == {"target": 4}
    assert server.run("remove_worker").answer == {"target": 2}
    assert server.calls == [("resize", 4), ("resize", 2)]


@pytest.mark.parametrize(("target", "command", "wrong"), [(1, "remove_worker", 0), (MAX_WORKERS, "add_worker", None)])
def test_the_number_of_workers_has_limits(server: Server, target: int, command: str, wrong: int | None) -> None:
    server.supervision.resize(target)
    expected = target + 1 if wrong is None else wrong

    assert code_of(server.run(command)) == (
        "failed",
        f"the number of workers would be {expected}, must be from 1 to {MAX_WORKERS}",
    )


def test_a_stuck_worker_is_killed_and_replaced(server: Server) -> None:
    assert server.run("restart_worker", pid=OTHER, now=True).answer == {"pid": OTHER}
    assert server.supervision[OTHER].needs_recycling
    assert server.supervision[OTHER].must_end_since is not None


def test_a_worker_is_replaced(server: Server) -> None:
    assert server.run("restart_worker", pid=OTHER).answer == {"pid": OTHER}
    assert server.supervision[OTHER].needs_recycling
    assert code_of(server.run("restart_worker", pid=7)) == (
        "not_found",
        f"there is no worker 7, must be one of: {ONE}, {OTHER}",
    )


# Connections


def test_workers_that_serve_are_asked_for_connections(server: Server) -> None:
    reply = server.run("connections", sort="idle", limit=5, where="age>1")
    expected = {"where": "age>1", "sort": "idle", "limit": 5}
    assert [(pid, asked["subject"], asked["arguments"]) for pid, asked in server.asked] == [
        (ONE, "connections", expected),
        (OTHER, "connections", expected),
    ]
    server.answer(w101=[{"idle_s": 1.0}], w102=[{"idle_s": 2.0}])

    assert reply.listed == [{"idle_s": 2.0}, {"idle_s": 1.0}]
    assert reply.answer == {"count": 2, "missing": []}


@pytest.mark.parametrize(
    ("where", "pids"),
    [
        ("", [ONE, OTHER]),
        (f"worker={OTHER}", [OTHER]),
        (f"id={ONE}-7", [ONE]),
        (f"id={ONE}-7,worker={OTHER}", []),
        ("worker=7", []),
        ("id=nonsense", []),
        (f"worker={STARTING}", []),
    ],
)
def test_only_workers_that_may_have_the_connections_are_asked(server: Server, where: str, pids: list[int]) -> None:
    reply = server.run("connections", where=where)

    assert [pid for pid, _ in server.asked] == pids
    assert (reply.answer is None) == bool(pids)


def test_one_connection(server: Server) -> None:
    name = f"{OTHER}-7"
    found = server.run("connection", connection=name)
    server.answer(w102=[{"id": name}])
    gone = server.run("connection", connection=name)
    server.answer()
    odd = server.run("connection", connection=name)
    server.answer(w102=["text"])
    failed = server.run("connection", connection=name)
    server.answer(w102="ValueError: no")

    assert found.answer == {"id": name}
    assert code_of(gone) == code_of(odd) == ("not_found", f"there is no connection '{name}'")
    assert code_of(failed) == ("no_answer", f"worker {OTHER}: ValueError: no")
    assert code_of(server.run("connection", connection="7-1\n")) == ("not_found", "there is no connection '7-1\\n'")


def test_close_counts_what_it_has_closed(server: Server) -> None:
    reply = server.run("close", where="age>60", now=True)
    assert [pid for pid, _ in server.asked] == [ONE, OTHER]
    assert all(asked["arguments"] == {"where": "age>60", "now": True} for _, asked in server.asked)
    server.answer(w101=["101-1", "101-2"], w102=["102-1"])

    assert reply.answer == {"closed": 3, "missing": []}


def test_close_with_a_worker_that_does_not_answer(server: Server) -> None:
    reply = server.run("close", where="age>60")
    one = next(each for each in server.asked if each[0] == ONE)
    server.asked.remove(one)
    server.answer(w102=["102-1"])
    server.questions.expire(1e12 + ANSWER_S)

    assert reply.answer == {"closed": 1, "missing": [{"pid": ONE, "problem": "the worker does not answer"}]}


def test_close_of_what_is_not_there(server: Server) -> None:
    unknown = server.run("close", where=f"id={ONE}-9")
    server.answer()
    nothing = server.run("close", where="age>1000")
    server.answer()

    assert code_of(unknown) == ("not_found", f"there is no connection '{ONE}-9'")
    assert nothing.answer == {"closed": 0, "missing": []}
    assert code_of(server.run("close", where="id=7-1")) == ("not_found", "there is no connection '7-1'")
    assert code_of(server.run("close", where=" "))[0] == "invalid_argument"
    assert server.asked == []
