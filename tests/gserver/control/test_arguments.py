"""The kinds of arguments of control commands."""

from __future__ import annotations

from typing import Any

import pytest

from gserver.control import arguments


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("flag", True, True),
        ("pid", 1, 1),
        ("row_limit", arguments.MAX_ROWS, arguments.MAX_ROWS),
        ("some_text", "4711-1", "4711-1"),
        ("sort_key", "idle", "idle"),
        ("profile_seconds", 1, 1.0),
        ("setting_values", {"keepalive": 1}, {"keepalive": 1}),
        ("conditions", "age>1", "age>1"),
        ("conditions", "", ""),
    ],
)
def test_valid_values(kind: str, value: Any, expected: Any) -> None:
    found = getattr(arguments, kind)(value)

    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("flag", "x", "'x', must be "),
        ("pid", 0, "0, must be a whole number from 1 to 2147483647"),
        ("pid", True, "True, must be a whole number from 1 to "),
        ("pid", 2**31, "2147483648, must be "),
        ("pid", 1.0, "1.0, must be "),
        ("row_limit", "1", "'1', must be a whole number from 1 to 1000000"),
        ("some_text", "", "'', must be text of at most 200 characters"),
        ("some_text", None, "None, must be text of at most 200 characters"),
        ("some_text", "x" * 201, "must be text of at most 200 characters"),
        ("sort_key", "name", "'name', must be one of age, idle, bytes, messages, outbox, handling"),
        ("sort_key", ["age"], "['age'], must be one of "),
        ("profile_seconds", 0, "0, must be a number of seconds, above 0 and up to 300"),
        ("profile_seconds", 301, "301, must be "),
        ("profile_seconds", True, "True, must be "),
        ("setting_values", {}, "{}, must be an object with a value for each setting"),
        ("setting_values", [], "[], must be an object with a value for each setting"),
        ("conditions", 1, "1, must be conditions such as addr=10.0.0.0/8,state=handling,idle>60"),
        ("conditions", "age", "'age': 'age' is no condition, must be NAME=TEXT, NAME>NUMBER or NAME<NUMBER"),
        ("conditions", "x" * 5000, "text of 5000 characters, must be at most 4096"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(kind: str, value: Any, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        getattr(arguments, kind)(value)

    assert problem in str(caught.value)
