"""What values may be."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from gserver import checks
from gserver.checks import Check


@pytest.mark.parametrize(
    ("check", "given", "value"),
    [
        (checks.whole(0), "7", 7),
        (checks.whole(0), 0, 0),
        (checks.whole(1, 5), 5, 5),
        (checks.seconds, "0.5", 0.5),
        (checks.seconds, 3, 3.0),
        (checks.size, "512", 512),
        (checks.size, "1k", 1024),
        (checks.size, "3G", 3 << 30),
        (checks.size, 10, 10),
        (checks.switch, False, False),
        (checks.optional_text, None, None),
        (checks.optional_text, "x", "x"),
        (checks.texts, "x", ("x",)),
        (checks.texts, ["x", "y"], ("x", "y")),
        (checks.variables, "A=", ("A=",)),
        (checks.variables, ["A=1=2"], ("A=1=2",)),
        (checks.file_mask, "22", 0o22),
        (checks.file_mask, 0o777, 0o777),
        (checks.file_mask, None, None),
        (checks.user_name, "root", "root"),
        (checks.user_name, 0, "0"),
        (checks.group_name, "root", "root"),
        (checks.log_configuration, {"a": 1}, {"a": 1}),
        (checks.one_of("a", "b"), "b", "b"),
    ],
)
def test_what_is_allowed_becomes_what_is_used(check: Check, given: Any, value: Any) -> None:
    assert check(given) == value


@pytest.mark.parametrize(
    ("check", "given"),
    [
        *((checks.whole(0), bad) for bad in (-1, "-1", "", "1.0", 1.0, True, None, [], 2**31, "1e3")),
        *((checks.seconds, bad) for bad in (-0.1, "inf", "nan", "", None, True, [])),
        *((checks.size, bad) for bad in ("M", "", "-1K", 1.5, True, None, "1MB")),
        *((checks.switch, bad) for bad in (1, 0, "True", None)),
        *((checks.optional_text, bad) for bad in ("", 1, b"x")),
        *((checks.texts, bad) for bad in (1, [1], {"x"}, None)),
        *((checks.variables, bad) for bad in ("A", "=1", ["A=1", "B"])),
        *((checks.file_mask, bad) for bad in ("8", "1000", -1, True, 0o1000, "")),
        *((checks.user_name, bad) for bad in ("nobody-at-all", "", 4_000_000_000, True, 1.5)),
        *((checks.group_name, bad) for bad in ("nobody-at-all", [])),
        *((checks.log_configuration, bad) for bad in ("x", 1, [])),
        *((checks.one_of("a", "b"), bad) for bad in ("c", "", None, 1, [])),
        *((checks.directory, bad) for bad in (None, "", "/nowhere/at/all", os.devnull, 1)),
        *((checks.binds, bad) for bad in (None, 1, [], [1], "x", ["127.0.0.1:1", "x"])),
        *((checks.function_of("a", "b"), bad) for bad in (1, "x", len, lambda a: None, lambda a, b, c: None)),
    ],
)
def test_everything_else_is_refused_with_the_value(check: Check, given: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|has no port") as caught:
        check(given)
    assert repr(given[-1] if isinstance(given, list) and "127.0.0.1:1" in given else given) in str(caught.value)


def test_a_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert checks.directory(".") == str(tmp_path)


@pytest.mark.parametrize(
    "hook",
    [None, lambda a, b: None, lambda *all: None, lambda a, b, c=1: None, functools.partial(lambda a, b, c: None, 1)],
)
def test_a_hook_is_whatever_takes_its_arguments(hook: Any) -> None:
    assert checks.function_of("a", "b")(hook) is hook
