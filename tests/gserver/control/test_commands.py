"""The commands that make several requests, or need more than the server: stacks, profile, top, upgrade, get, set."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from gserver.control import cli, commands
from gserver.control.client import SILENCE_S
from gserver.control.protocol import Problem
from tests.gserver.control.test_cli import NO_ROWS, FakeClient, Run, run, server

__all__ = ["run", "server"]  # fixtures

WORKERS = {"rows": [{"pid": 7, "state": "serving"}, {"pid": 8, "state": "draining"}, {"pid": 9, "state": "booting"}]}
PROFILE: dict[str, Any] = {"pid": 7, "seconds": 1.0, "interval_s": 0.01, "cpu_s": 0.5, "samples": 99, "idle": 9}


def test_the_stacks_of_one_worker(server: FakeClient, run: Run) -> None:
    server.answers["stacks"] = {"rows": ["one\n", "two\n"], "pid": 7}

    assert run("stacks", "7") == (0, "Worker 7\none\ntwo\n", "")
    assert server.asked == [("stacks", {"pid": 7})]


def test_the_stacks_of_all_workers_that_serve_or_drain(server: FakeClient, run: Run) -> None:
    server.answers |= {"workers": WORKERS, "stacks": {"rows": ["one\n"], "pid": 7}}

    assert run("stacks") == (0, "Worker 7\none\n\nWorker 8\none\n", "")
    assert json.loads(run("stacks", "--json")[1]) == {"stacks": {"7": "one\n", "8": "one\n"}, "missing": []}


def test_workers_that_do_not_answer_are_missing_or_the_error(server: FakeClient, run: Run) -> None:
    server.answers |= {"workers": WORKERS, "stacks": Problem("no_answer", "it is stuck")}

    assert run("stacks", "7") == (1, "", "gserverctl: it is stuck\n")
    status, output, errors = run("stacks")
    assert (status, output) == (4, "")
    assert errors == "gserverctl: worker 7 is missing: it is stuck\ngserverctl: worker 8 is missing: it is stuck\n"


def test_a_profile_is_its_stacks_and_a_summary_apart(server: FakeClient, run: Run) -> None:
    server.answers["profile"] = {**PROFILE, "rows": ["a;b 1", "0\nc 2\n"]}
    status, output, errors = run("profile", "7", "--seconds", "0.5")

    assert (status, output) == (0, "a;b 10\nc 2\n")
    assert errors == (
        "gserverctl: 99 samples in 1 s, 90 of them while the worker ran; CPU time of its main thread: 500 ms\n"
    )
    assert server.asked == [("profile", {"pid": 7, "seconds": 0.5})]
    server.answers["profile"] = {**PROFILE, "rows": ["a;b 1", "0\nc 2\n"]}
    assert json.loads(run("profile", "7", "--json")[1]) == {**PROFILE, "stacks": ["a;b 10", "c 2"]}


def test_a_long_profile_is_waited_for(server: FakeClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []

    def call(command: str, *, limit_s: float | None = SILENCE_S, **arguments: Any) -> Any:
        limits.append(limit_s)
        return {**PROFILE, "rows": []}

    monkeypatch.setattr(server, "call", call)
    assert run("profile", "7", "--seconds", "300")[0] == 0
    assert limits == [300 + SILENCE_S]


@pytest.mark.parametrize(
    "arguments",
    [
        ["profile"],
        ["profile", "x"],
        ["profile", "7", "--seconds", "x"],
        ["profile", "7", "--seconds", "0"],
        ["profile", "7", "--seconds", "nan"],
        ["profile", "7", "--seconds", "inf"],
        ["top", "--interval", "-1"],
        ["top", "--rounds", "0"],
        ["top", "--rounds", "1.5"],
        ["top", "--json"],
        ["upgrade", "--timeout", "soon"],
        ["set"],
        ["log-level", "loud"],
    ],
)
def test_wrong_usage(server: FakeClient, run: Run, arguments: list[str]) -> None:
    status, output, errors = run(*arguments)

    assert (status, output) == (2, "")
    assert "_seconds" not in errors
    assert "_count" not in errors
    assert server.asked == []


def test_top_without_rich_is_one_line(server: FakeClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rich", None)

    assert run("top") == (1, "", "gserverctl: top needs rich: pip install 'gserver-tcp[top]'\n")


def test_an_upgrade_is_one_line_or_json(server: FakeClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"old_pid": 7, "old_version": "1", "pid": 8, "version": "2"}
    limits: list[float] = []

    def upgrade(old: Any, limit_s: float) -> dict[str, Any]:
        limits.append(limit_s)
        return result

    monkeypatch.setattr(commands, "upgrade", upgrade)
    line = "upgraded: gserver 2 with pid 8 serves, gserver 1 with pid 7 has stopped\n"
    assert run("upgrade") == (0, line, "")
    assert json.loads(run("upgrade", "--timeout", "5", "--json")[1]) == result
    assert limits == [cli.UPGRADE_S, 5.0]


SETTINGS = {
    "rows": [
        {"name": "workers", "value": "2", "default": "1", "is_default": False, "is_live": False},
        {"name": "loglevel", "value": "info", "default": "info", "is_default": True, "is_live": True},
    ]
}


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ([], "workers = 2\nloglevel = info  (live)\n"),
        (["loglevel"], "loglevel = info  (live)\n"),
        (["--changed"], "workers = 2\n"),
        (["loglevel", "--changed"], ""),
    ],
)
def test_get(server: FakeClient, run: Run, arguments: list[str], output: str) -> None:
    server.answers["settings"] = SETTINGS

    assert run("get", *arguments) == (0, output, "")


def test_get_of_an_unknown_setting_names_those_that_exist(server: FakeClient, run: Run) -> None:
    server.answers["settings"] = SETTINGS

    assert run("get", "x") == (2, "", "gserverctl: unknown setting 'x', must be one of: workers, loglevel\n")


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["set", "timeout", "5"], {"timeout": "5"}),
        (["set", "allow", "10.0.0.0/8", "::1"], {"allow": ["10.0.0.0/8", "::1"]}),
        (["set", "allow"], {"allow": []}),
        (["log-level", "debug"], {"loglevel": "debug"}),
    ],
)
def test_set_and_log_level(server: FakeClient, run: Run, arguments: list[str], values: dict[str, Any]) -> None:
    server.answers["set"] = {"values": values}
    status, output, _ = run(*arguments)

    assert status == 0
    assert output.startswith("until the next reload or start: ")
    assert server.asked == [("set", {"values": values})]


def test_listings_without_rows_print_nothing_wrong(server: FakeClient, run: Run) -> None:
    server.answers["workers"] = NO_ROWS

    assert run("stacks") == (0, "", "")
