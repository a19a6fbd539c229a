"""The formats of the logs: JSON that is valid whatever is logged, and priorities for the journal."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.process.log_formats import LogFormat, access_formatter, error_formatter
from gserver.process.log_handler import LogHandler
from gserver.process.log_output import Output

AT = 1_800_000_000.1239


def make_record(message: Any, *arguments: Any, level: int = logging.ERROR, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("gserver.turn", level, "", 0, message, arguments, None)
    record.created, record.msecs = AT, 123.9
    record.__dict__.update(fields)
    return record


def error_event(record: logging.LogRecord) -> dict[str, Any]:
    """Format a record as JSON, and check that it is one line of ASCII."""
    line = error_formatter("json", False).format(record)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    event = json.loads(line)
    assert isinstance(event, dict)
    return event


def raised(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


# JSON


def test_an_event_has_typed_fields() -> None:
    event = error_event(make_record("heard %d of %s", 3, "5"))
    written_at = datetime.fromisoformat(event["time"])

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.123[+-]\d\d:\d\d", event.pop("time"))
    assert timedelta() <= datetime.fromtimestamp(AT).astimezone() - written_at < timedelta(milliseconds=1)
    assert event == {"level": "ERROR", "pid": os.getpid(), "logger": "gserver.turn", "message": "heard 3 of 5"}


def test_an_event_about_a_connection_has_its_id_and_its_peer() -> None:
    event = error_event(make_record("x", connection="4712-1893", peer="unix:/a\udcff"))

    assert (event["connection"], event["peer"]) == ("4712-1893", "unix:/a\\udcff")


def test_a_field_of_the_application_with_another_type_is_left_out() -> None:
    assert "connection" not in error_event(make_record("x", connection=object(), peer=None))


def test_a_traceback_is_one_text() -> None:
    event = error_event(make_record("failed", exc_info=raised(ValueError("two\nlines \ud800"))))

    assert event["message"] == "failed"
    assert event["exception"].startswith("Traceback (most recent call last):\n")
    assert event["exception"].endswith("ValueError: two\nlines \\ud800")


def test_no_exception_is_no_field() -> None:
    assert "exception" not in error_event(make_record("failed", exc_info=(None, None, None)))
    assert "exception" not in error_event(make_record("failed", exc_info=None))


def test_a_stack_is_a_field() -> None:
    assert error_event(make_record("x", stack_info="Stack:\n  here"))["stack"] == "Stack:\n  here"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Cruel(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no cause")


@pytest.mark.parametrize("error", [Unprintable(), Cruel()], ids=lambda error: type(error).__name__)
def test_an_exception_that_cannot_be_formatted_is_an_event_too(error: BaseException) -> None:
    event = error_event(make_record("failed", exc_info=raised(error)))

    assert type(error).__name__ in event["exception"]


BROKEN: list[tuple[Any, ...]] = [
    ("%d of %s", "one"),
    ("%d", "text"),
    ("%(name)s", 1),
    ("100%", 1),
    ("%s", Unprintable()),
    (Unprintable(),),
    ("%y", 1),
]


@pytest.mark.parametrize("logged", BROKEN, ids=lambda logged: str(logged[:1])[:20] if len(logged) > 1 else "object")
def test_arguments_that_do_not_fit_are_an_event_too(logged: tuple[Any, ...]) -> None:
    event = error_event(make_record(*logged))

    assert event["message"].startswith("gserver.turn logged a message that cannot be formatted: ")


def test_a_message_need_not_be_text() -> None:
    assert error_event(make_record({"a": 1}))["message"] == "{'a': 1}"


TEXTS = st.text(st.characters(), max_size=50)  # with control characters and lone surrogates


@given(message=TEXTS, argument=TEXTS, peer=TEXTS, name=TEXTS)
def test_every_line_is_valid_json(message: str, argument: str, peer: str, name: str) -> None:
    record = make_record("%s %r" + message.replace("%", "%%"), argument, argument, connection=name, peer=peer)
    record.name = name
    record.exc_info = raised(ValueError(argument))
    event = error_event(record)

    # Strict parsers refuse lone surrogates: all text can be encoded.
    for value in event.values():
        str(value).encode()


# The access log


FIELDS: dict[str, Any] = {
    "id": "4712-1893",
    "peer": "192.0.2.1:7",
    "listener": "127.0.0.1:3000",
    "reason": "peer_eof",
    "messages": 2,
    "received_bytes": 30,
    "sent_bytes": 40,
    "duration_s": 0.25,
    "tls": None,
}


def access_event(record: logging.LogRecord, form: LogFormat = "json") -> dict[str, Any]:
    formatter = access_formatter(form, False)
    assert formatter is not None
    event = json.loads(formatter.format(record))
    assert isinstance(event, dict)
    return event


def test_a_closed_connection_is_an_object_with_the_fields() -> None:
    event = access_event(make_record("the line", **FIELDS))

    assert datetime.fromisoformat(event.pop("time"))
    assert event == {**FIELDS, "pid": os.getpid()}


def test_the_address_of_the_proxy_is_there_if_there_was_one() -> None:
    assert list(access_event(make_record("the line", **FIELDS, proxy_peer="[::1]:9")))[:4] == [
        *("time", "id", "peer", "proxy_peer")
    ]


def test_another_message_of_the_access_log_is_an_object_too() -> None:
    event = access_event(make_record("of the %s", "application"))

    assert {**event, "time": 0} == {"time": 0, "message": "of the application", "pid": os.getpid()}


def test_text_has_no_formatter() -> None:
    assert access_formatter("text", False) is None


# The journal


@pytest.mark.parametrize(
    ("level", "priority"),
    [(50, 2), (60, 2), (40, 3), (45, 3), (30, 4), (20, 6), (25, 6), (10, 7), (1, 7)],
)
def test_a_line_for_the_journal_begins_with_its_priority(level: int, priority: int) -> None:
    record = make_record("heard", level=level)

    assert error_formatter("text", True).format(record) == f"<{priority}>[{record.levelname}] heard"


def test_each_line_of_a_traceback_has_the_priority() -> None:
    text = error_formatter("text", True).format(make_record("failed", exc_info=raised(ValueError("a\nb"))))
    lines = text.split("\n")

    assert lines[:2] == ["<3>[ERROR] failed", "<3>Traceback (most recent call last):"]
    assert lines[-2:] == ["<3>ValueError: a", "<3>b"]
    assert all(line.startswith("<3>") for line in lines)


def test_a_client_cannot_choose_the_priority_of_a_line() -> None:
    text = error_formatter("text", True).format(make_record("%s", "x\n<0>y\0<0>z"))

    assert text == "<3>[ERROR] x\n<3><0>y\\x00<0>z"


def test_json_for_the_journal_has_the_priority_before_the_object() -> None:
    text = error_formatter("json", True).format(make_record("a\nb", level=logging.WARNING))

    assert text.startswith('<4>{"time":')
    assert json.loads(text[3:])["message"] == "a\nb"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_of_the_access_log_has_the_priority_too(form: LogFormat) -> None:
    formatter = access_formatter(form, True)
    assert formatter is not None

    text = formatter.format(make_record("the line", level=logging.INFO, **FIELDS))
    assert text == "<6>the line" if form == "text" else text.startswith('<6>{"time":')


# In a handler


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("in_journal", [False, True])
def test_a_message_that_cannot_be_formatted_has_the_format_of_the_log(
    tmp_path: Path, form: LogFormat, in_journal: bool
) -> None:
    handler = LogHandler("error log", Output.of_path(str(tmp_path / "log")))
    handler.setFormatter(error_formatter(form, in_journal))
    handler.handle(make_record("%d of %s", "one"))
    handler.retire()
    line = (tmp_path / "log").read_text()

    begin = "<3>" if in_journal else ""
    assert line.startswith(begin + ("{" if form == "json" else "["))
    assert "gserver.turn logged a message that cannot be formatted: '%d of %s'" in line
    if form == "json":
        json.loads(line.removeprefix(begin))
