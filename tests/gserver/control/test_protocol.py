"""The control protocol: what is accepted, and what a refusal says."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.control.protocol import COMMANDS, SCHEMA, Problem, encode, parse_request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refusal(line: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_request(line)
    return caught.value


def test_a_request_has_a_command_its_arguments_and_an_id() -> None:
    request = parse_request(b'{"schema": 1, "id": "a", "command": "connections", "sort": "idle", "limit": 2}\r')

    assert (request.command, request.arguments, request.id) == ("connections", {"sort": "idle", "limit": 2}, "a")
    assert parse_request(b'{"command": "status"}').id is None


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b"", "malformed", "a request must be one line with a JSON object"),
        (b'{"command": NaN}', "malformed", "a request must be one line with a JSON object"),
        (b'{"command": "status", "id": 1e999}', "malformed", "a request must be one line with a JSON object"),
        (b'{"id": ' + b"1" * 5000 + b"}", "malformed", "a request must be one line with a JSON object"),
        (b"[" * 100_000, "malformed", "a request must be one line with a JSON object"),
        (b"[1]", "malformed", "a request must be a JSON object, not list"),
        (b'{"command": "status", "id": {}}', "malformed", "the id of a request must be a text or a number, not dict"),
        (b"{}", "unknown_command", f"unknown command None, must be one of {', '.join(COMMANDS)}"),
        (b'{"command": "close"}', "invalid_argument", "close needs the argument where"),
        (b'{"command": "status", "x": 1}', "invalid_argument", "status has no argument 'x', must be one of: none"),
        (
            b'{"command": "connections", "limit": 0}',
            "invalid_argument",
            "connections: argument limit is 0, must be a whole number from 1 to 1000000",
        ),
        (
            b'{"command": "connections", "where": "x"}',
            "invalid_argument",
            "connections: argument where is 'x': 'x' is no condition, must be NAME=TEXT, NAME>NUMBER or NAME<NUMBER",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(line: bytes, code: str, message: str) -> None:
    problem = refusal(line)

    assert (problem.code, str(problem)) == (code, message)


def test_the_id_of_a_wrong_request_is_known() -> None:
    assert refusal(b'{"command": "fly", "id": 7}').request_id == 7


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_problem(line: bytes) -> None:
    with contextlib.suppress(Problem):
        parse_request(line)


@given(st.sampled_from(sorted(COMMANDS)), st.dictionaries(st.text(), JSON, max_size=4), st.data())
def test_any_arguments_are_valid_or_a_problem_of_one_line(name: str, given: dict[str, Any], data: Any) -> None:
    known = {argument: data.draw(JSON) for argument in COMMANDS[name].arguments}
    line = json.dumps({**known, **given, "command": name}).encode()
    found: Problem | None = None
    try:
        encode(parse_request(line).id, result={})
    except Problem as problem:
        found = problem
    if found is not None:
        encode(found.request_id, error={"message": str(found)})
        assert "\n" not in str(found)
        assert len(str(found)) < 1000


@given(JSON)
def test_a_reply_is_one_line_of_ascii(value: Any) -> None:
    line = encode(7, result=value)

    assert line.isascii()
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert json.loads(line).keys() == {"schema", "id", "result"}
    assert json.loads(line)["schema"] == SCHEMA


def test_required_arguments_are_arguments() -> None:
    for command in COMMANDS.values():
        assert set(command.required) <= set(command.arguments)
        assert command.help
