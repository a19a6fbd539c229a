"""Validators: accepted, converted and rejected values."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from gserver.config import validators
from gserver.config.validators import Check


@pytest.mark.parametrize(
    ("check", "given", "value"),
    [
        (validators.whole(0), "7", 7),
        (validators.whole(0), 0, 0),
        (validators.whole(1, 5), 5, 5),
        (validators.seconds, "0.5", 0.5),
        (validators.seconds, 3, 3.0),
        (validators.size, "512", 512),
        (validators.size, "1k", 1024),
        (validators.size, "3G", 3 << 30),
        (validators.size, 10, 10),
        (validators.byte_rate, "64K", 65536.0),
        (validators.byte_rate, "0.5", 0.5),
        (validators.byte_rate, 1000, 1000.0),
        (validators.queue_size, "64K", 65536),
        (validators.bus_url, None, None),
        (validators.bus_url, "redis://:password@host:6379/0", "redis://:password@host:6379/0"),
        (validators.bus_url, "rediss://host", "rediss://host"),
        (validators.bus_url, "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        (validators.switch, False, False),
        (validators.optional_text, None, None),
        (validators.optional_text, "x", "x"),
        (validators.texts, "x", ("x",)),
        (validators.texts, ["x", "y"], ("x", "y")),
        (validators.variables, "A=", ("A=",)),
        (validators.variables, ["A=1=2"], ("A=1=2",)),
        (validators.file_mask, "22", 0o22),
        (validators.file_mask, 0o777, 0o777),
        (validators.file_mask, None, None),
        (validators.user_name, "root", "root"),
        (validators.user_name, 0, "0"),
        (validators.group_name, "root", "root"),
        (validators.log_configuration, {"a": 1}, {"a": 1}),
        (validators.one_of("a", "b"), "b", "b"),
    ],
)
def test_allowed_values_are_converted(check: Check, given: Any, value: Any) -> None:
    assert check(given) == value


@pytest.mark.parametrize(
    ("check", "given"),
    [
        *((validators.whole(0), bad) for bad in (-1, "-1", "", "1.0", 1.0, True, None, [], 2**31, "1e3")),
        *((validators.seconds, bad) for bad in (-0.1, "inf", "nan", "", None, True, [], {}, 10**400)),
        *((validators.size, bad) for bad in ("M", "", "-1K", 1.5, True, None, "1MB", "1.5M", b"1", "K1")),
        *((validators.byte_rate, bad) for bad in ("K", "", "-1K", "1.5M", "1MB", -1, True, None)),
        *((validators.queue_size, bad) for bad in (0, "63K", "M", None, True)),
        *((validators.bus_url, bad) for bad in ("redis:///0", "unix://", "amqp://host", "http://host/0")),
        *((validators.switch, bad) for bad in (1, 0, "True", None)),
        *((validators.optional_text, bad) for bad in ("", 1, b"x", "a\0b")),
        *((validators.texts, bad) for bad in (1, [1], {"x"}, None)),
        *((validators.variables, bad) for bad in ("A", ["B"], 1, None)),
        *((validators.password, bad) for bad in ("", 1, 1.5)),
        *((validators.file_mask, bad) for bad in ("8", "1000", -1, True, 0o1000, "")),
        *((validators.user_name, bad) for bad in ("nobody-at-all", "", 4_000_000_000, True, 1.5, -1, 10**20, b"root")),
        *((validators.group_name, bad) for bad in ("nobody-at-all", [], "", -1, 10**20, True)),
        *((validators.log_configuration, bad) for bad in (1, [])),
        *((validators.one_of("a", "b"), bad) for bad in ("c", "", None, 1, [])),
        *((validators.directory, bad) for bad in (None, "", "/nowhere/at/all", os.devnull, 1)),
        *((validators.binds, bad) for bad in (None, 1, [], [1], "x", ["127.0.0.1:1", "x"])),
        *((validators.function_of("a", "b"), bad) for bad in (1, "x", len, [], lambda a: None, lambda a, b, c: None)),
    ],
)
def test_everything_else_is_refused_with_the_value(check: Check, given: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|has no port") as caught:
        check(given)
    assert repr(given[-1] if given in (["B"], ["127.0.0.1:1", "x"]) else given) in str(caught.value)


def test_a_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert validators.directory(".") == str(tmp_path)


@pytest.mark.parametrize(
    "hook",
    [None, lambda a, b: None, lambda *all: None, lambda a, b, c=1: None, functools.partial(lambda a, b, c: None, 1)],
)
def test_a_hook_is_whatever_takes_its_arguments(hook: Any) -> None:
    assert validators.function_of("a", "b")(hook) is hook


@pytest.mark.parametrize("value", ["%(h)s", "%(nothing)s", "100%%", "no atoms", "%(M)d %(p)5d", "%(t)-10s|"])
def test_a_valid_format_of_the_access_log_is_accepted(value: str) -> None:
    assert validators.access_format(value) == value


@pytest.mark.parametrize("value", ["", None, 1, b"%(h)s", "%(h)d", "%(h", "100%", "%(L)f", "%", "%(h)", "%(r)x"])
def test_a_format_that_would_fail_for_a_connection_is_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match=r"must be text with placeholders such as %\(h\)s") as caught:
        validators.access_format(value)
    assert repr(value) in str(caught.value)


def test_a_number_that_python_does_not_write_is_refused_all_the_same() -> None:
    with pytest.raises(ValueError, match=r"^too large a value of type int, must be a whole number of at least 0$"):
        validators.whole(0)(10**5000)


def test_a_list_is_taken_as_it_was() -> None:
    given = ["x"]
    taken = validators.texts(given)
    given.append("y")

    assert taken == ("x",)


def test_a_dictionary_is_taken_as_it_was() -> None:
    given = {"a": 1}
    taken = validators.log_configuration(given)
    given["b"] = 2

    assert taken == {"a": 1}


def test_a_hook_may_be_a_method_or_an_object_that_is_called() -> None:
    class Heard(list[Any]):
        def __call__(self, server: Any) -> None: ...

    for hook in (Heard(), Heard().append):
        assert validators.function_of("server")(hook) is hook
