"""docs/gserverctl.md and docs/control-protocol.md have every command, option, field and exit status."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from gserver.control import cli
from gserver.control.commands import DONE, FAILED, INCOMPLETE, NO_SERVER, USAGE
from gserver.control.protocol import COMMANDS, MAX_REQUEST_BYTES, SCHEMA
from gserver.control.selection import NUMBERS, SORT_KEYS, STATES
from gserver.control.text_output import connection_table, details, listener_table, status_text, worker_table
from tests.gserver.control.test_text_output import CONNECTION, LISTENER, STATUS, WORKER

DOCS = Path(__file__).parents[3] / "docs"
GSERVERCTL, PROTOCOL = [(DOCS / name).read_text("utf-8") for name in ("gserverctl.md", "control-protocol.md")]


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = cli._parser(True)
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def section(page: str, heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    assert found, f"the page has no heading {heading!r}"
    return found[1]


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_a_section_with_its_options(name: str) -> None:
    text = section(GSERVERCTL, name)
    for action in commands()[name]._actions:
        for option in set(action.option_strings) - {"-h", "--help", "--json"}:
            assert option in text, option
        for choice in action.choices or () if not action.option_strings else ():
            assert f"{name} {choice}" in text, choice


def test_every_exit_status_is_in_the_page() -> None:
    table = section(GSERVERCTL, "Exit statuses")

    assert [int(status) for status in re.findall(r"^\| (\d) \|", table, re.M)] == [
        DONE,
        FAILED,
        USAGE,
        NO_SERVER,
        INCOMPLETE,
    ]


def test_states_sort_keys_and_conditions_are_in_the_page() -> None:
    text = section(GSERVERCTL, "connections")

    assert all(f"`{state}`" in text for state in STATES)
    assert all(f"`{key}`" in text for key in SORT_KEYS)
    assert all(re.search(rf"`{name}[<>]", text) for name in NUMBERS)


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("workers", worker_table([WORKER])),
        ("connections", connection_table([CONNECTION])),
        ("listeners", listener_table([LISTENER])),
    ],
)
def test_tables_have_the_columns_that_are_printed(command: str, printed: str) -> None:
    columns = printed.splitlines()[0].split()

    assert any(line.split() == columns for line in section(GSERVERCTL, command).splitlines())


def test_the_status_has_the_lines_that_are_printed() -> None:
    printed = [line.split()[0] for line in status_text(STATUS, 0.0).splitlines()]
    shown = re.findall(r"^    (\w+)  ", section(GSERVERCTL, "status"), re.M)

    assert sorted(set(shown)) == sorted(set(printed))
    assert details({"a": 1}) == "a  1\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_of_the_protocol_has_a_section_with_its_arguments(name: str) -> None:
    headings = [line for line in re.findall(r"^### (.*)$", PROTOCOL, re.M) if f"`{name}`" in line]
    assert len(headings) == 1, headings
    text = section(PROTOCOL, headings[0])
    for argument in COMMANDS[name].arguments:
        assert f"`{argument}`" in text, argument
        assert ("required" in text) >= (argument in COMMANDS[name].required)


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("`status`", {**STATUS, "generation": 0, "received_bytes": 0, "sent_bytes": 0}),
        ("`workers`", WORKER),
        ("`connections`", CONNECTION),
        ("`listeners`", LISTENER),
    ],
)
def test_fields_are_in_the_page(heading: str, fields: dict[str, Any]) -> None:
    text = section(PROTOCOL, heading)

    assert [name for name in fields if f"`{name}`" not in text] == []


def test_figures_of_the_protocol() -> None:
    assert f"`schema` is {SCHEMA}." in PROTOCOL
    assert f"{MAX_REQUEST_BYTES:,} bytes" in PROTOCOL


def test_error_codes_are_those_of_the_code() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", section(PROTOCOL, "Errors"), re.M))
    used = set()
    for path in (*DOCS.parent.glob("gserver/control/*.py"), *DOCS.parent.glob("gserver/arbiter/*.py")):
        used |= set(re.findall(r"Problem\(\s*\"(\w+)\"", path.read_text("utf-8")))
        used |= set(re.findall(r"\"code\": \"(\w+)\"", path.read_text("utf-8")))

    assert listed == used
