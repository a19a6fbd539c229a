"""The command line gserverctl: what it asks for, what it prints, and its exit statuses. Without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gserver.control import cli
from gserver.control.client import Unreachable
from gserver.control.protocol import COMMANDS, Problem, parse_request
from tests.gserver.control.test_text_output import CONNECTION, STATUS, WORKER


class FakeClient:
    """Answers with what the test has given; its requests are checked as a server does."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def call(self, command: str, *, limit_s: float | None = 30.0, **arguments: Any) -> Any:
        parse_request(json.dumps({"command": command, **arguments}).encode())
        self.asked.append((command, arguments))
        answer = self.answers.get(command, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait_for_end(self, limit_s: float | None) -> None:
        self.asked.append(("wait", {}))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient("ctl")
    monkeypatch.setattr(cli, "ControlClient", lambda path: made)
    return made


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(server: FakeClient, capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(["-s", "ctl", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return ran


NO_ROWS = {"rows": [], "count": 0, "missing": []}


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["workers", "add"], ("add_worker", {})),
        (["workers", "remove"], ("remove_worker", {})),
        (["workers", "restart", "7"], ("restart_worker", {"pid": 7})),
        (["workers", "restart", "7", "--now"], ("restart_worker", {"pid": 7, "now": True})),
        (["listeners"], ("listeners", {})),
        (["connections"], ("connections", {})),
        (
            ["connections", "--sort", "idle", "--limit", "5", "--where", "age>1", "--where", "tls=no"],
            ("connections", {"sort": "idle", "limit": 5, "where": "age>1,tls=no"}),
        ),
        (["connection", "7-1"], ("connection", {"connection": "7-1"})),
        (["close", "7-1"], ("close", {"where": "id=7-1", "now": False})),
        (
            ["close", "--addr", "10.0.0.0/8", "--worker", "7", "--where", "age>1", "--now"],
            ("close", {"where": "age>1,addr=10.0.0.0/8,worker=7", "now": True}),
        ),
        (["ready", "off"], ("ready", {"on": False})),
        (["ready", "on"], ("ready", {"on": True})),
    ],
)
def test_what_is_asked_for(server: FakeClient, run: Run, arguments: list[str], asked: tuple[str, Any]) -> None:
    server.answers = dict.fromkeys(("connections", "listeners"), NO_ROWS)
    server.answers |= {"add_worker": {"target": 1}, "remove_worker": {"target": 1}, "close": {"closed": 1_234}}
    status, output, errors = run(*arguments)

    assert (status, errors) == (0, "")
    assert server.asked == [asked]
    assert output.endswith("\n") or arguments[0] == "connection"


def test_tables_and_json(server: FakeClient, run: Run) -> None:
    server.answers = {
        "workers": {"rows": [WORKER], "count": 1},
        "connections": {"rows": [CONNECTION], "count": 1, "missing": []},
        "status": STATUS,
    }
    for command, answer in server.answers.items():
        assert json.loads(run(command, "--json")[1]) == answer
        assert run(command)[1].count("\n") >= 2


def test_a_server_that_is_not_ready_is_status_1(server: FakeClient, run: Run) -> None:
    server.answers["status"] = {**STATUS, "ready": False, "not_ready_because": "no worker serves"}

    assert run("status")[0] == 1
    assert run("status", "--json")[0] == 1


def test_workers_that_are_missing_are_status_4(server: FakeClient, run: Run) -> None:
    missing = [{"pid": 7, "problem": "the worker does not answer"}, {"pid": 8, "problem": "the worker has ended"}]
    server.answers["connections"] = {"rows": [CONNECTION], "count": 1, "missing": missing}
    status, output, errors = run("connections")

    assert (status, output.count("\n")) == (4, 2)
    assert errors == (
        "gserverctl: worker 7 is missing: the worker does not answer\n"
        "gserverctl: worker 8 is missing: the worker has ended\n"
    )


def test_stacks_of_all_workers_leave_out_a_stuck_one(server: FakeClient, run: Run) -> None:
    server.answers["workers"] = {"rows": [{**WORKER, "pid": 7, "state": "serving"}]}
    server.answers["stacks"] = Problem("no_answer", "worker 7 does not answer")
    status, output, errors = run("stacks")

    assert (status, output) == (4, "")
    assert errors == "gserverctl: worker 7 is missing: does not answer\n"
    assert run("stacks", "7") == (1, "", "gserverctl: worker 7 does not answer\n")


def test_a_refusal_is_status_1_and_no_server_status_3(server: FakeClient, run: Run) -> None:
    server.answers["connection"] = Problem("not_found", "there is no connection '7-1'")
    assert run("connection", "7-1") == (1, "", "gserverctl: there is no connection '7-1'\n")
    server.answers["connection"] = Unreachable("the server at 'ctl' has ended")
    assert run("connection", "7-1") == (3, "", "gserverctl: the server at 'ctl' has ended\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["workers", "restart"],
        ["workers", "add", "7"],
        ["workers", "--now"],
        ["workers", "add", "--now"],
        ["workers", "restart", "x"],
        ["close"],
        ["ready"],
        ["ready", "maybe"],
        ["connections", "--limit", "x"],
        ["connections", "--sort", "name"],
    ],
)
def test_wrong_usage_is_status_2_and_asks_for_nothing(server: FakeClient, run: Run, arguments: list[str]) -> None:
    status, output, errors = run(*arguments)

    assert (status, output) == (2, "")
    assert "gserverctl" in errors
    assert server.asked == []


def test_stop_waits_for_the_end(server: FakeClient, run: Run) -> None:
    server.answers["stop"] = {"pid": 7, "quick": True}

    assert run("stop", "--quick") == (0, "the server with pid 7 has stopped\n", "")
    assert server.asked == [("stop", {"quick": True}), ("wait", {})]


def test_without_an_output_it_is_one_line(server: FakeClient, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["status"] = STATUS

    assert cli.main(["-s", "ctl", "status"], has_output=False) == 1
    assert cli.main(["--help"], has_output=False) == 1
    assert capsys.readouterr().err == "gserverctl: cannot write to standard output: it is closed\n" * 2


# Without a path


class FakeServers:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: str | None, *paths: str) -> None:
        self.dead = {"dead"}
        monkeypatch.setattr(cli, "default_folder", lambda environ, user: folder)
        monkeypatch.setattr(cli, "sockets_in", lambda folder: list(paths))
        monkeypatch.setattr(cli, "ControlClient", self.connect)

    def connect(self, path: str) -> FakeClient:
        if path in self.dead:
            raise Unreachable("dead")
        client = FakeClient(path)
        client.answers["status"] = Unreachable("it is stuck") if path == "stuck" else STATUS
        return client


def test_the_only_server_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    FakeServers(monkeypatch, "/run/gserver", "dead", "a")

    assert cli.main(["status"]) == 0
    assert "pid 4710" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "paths", "status", "error"),
    [
        (None, [], 3, "no control socket: XDG_RUNTIME_DIR is not set; name one with -s"),
        ("/run/gserver", ["dead"], 3, "no server of this user runs with a control socket in /run/gserver"),
        (
            "/run/gserver",
            ["a", "dead", "stuck"],
            2,
            "several servers run, choose one with -s: a (pid 4710, app:app, 127.0.0.1:7000); stuck (it is stuck)",
        ),
    ],
)
def test_none_or_several_servers_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str | None,
    paths: list[str],
    status: int,
    error: str,
) -> None:
    FakeServers(monkeypatch, folder, *paths)

    assert cli.main(["status"]) == status
    assert capsys.readouterr() == ("", f"gserverctl: {error}\n")


def test_an_interrupt_is_its_status_without_a_traceback(server: FakeClient, run: Run) -> None:
    server.answers["reload"] = KeyboardInterrupt()
    server.call = lambda *given, **arguments: (_ for _ in ()).throw(KeyboardInterrupt())  # type: ignore[method-assign]

    assert run("reload") == (130, "", "")


def test_every_command_that_needs_no_other_release_is_known() -> None:
    assert {"status", "workers", "listeners", "connections", "close", "ready", "reload", "stop"} <= set(COMMANDS)
