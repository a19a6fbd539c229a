"""Conditions on connections."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.control.selection import NUMBERS, SORT_KEYS, STATES, Selection

ROW: dict[str, Any] = {
    "id": "4711-18",
    "worker": 4711,
    "peer": "10.1.2.3:5000",
    "address": "10.1.2.3",
    "listener": "0.0.0.0:7000",
    "tls": None,
    "state": "handling",
    "age_s": 60.0,
    "idle_s": 5.0,
    "messages": 3,
    "bytes": 300,
    "outbox_bytes": 0,
    "handling_s": None,
}


@pytest.mark.parametrize(
    ("conditions", "is_selected"),
    [
        ("", True),
        (" , ", True),
        ("id=4711-18", True),
        ("id=4711-1", False),
        ("addr=10.0.0.0/8", True),
        ("addr=10.1.2.3", True),
        ("addr=10.1.2.4", False),
        ("addr=::/0", False),
        ("state=handling", True),
        ("state=idle", False),
        ("listener=0.0.0.0:7000", True),
        ("tls=no", True),
        ("tls=yes", False),
        ("worker=4711", True),
        ("worker=04711", True),
        ("worker=471", False),
        ("age>59.5", True),
        ("age>60", False),
        ("age<60", False),
        ("idle<6,idle>4", True),
        ("  addr = 10.0.0.0/8 , age > 1 ,", True),
        ("addr=10.0.0.0/8,age>100", False),
        ("handling>0", False),  # it has no such number
        ("handling<1", False),
    ],
)
def test_all_conditions_must_hold(conditions: str, is_selected: bool) -> None:
    assert Selection.parse(conditions).selects(ROW) is is_selected


def test_a_connection_of_a_unix_socket_has_no_address() -> None:
    assert not Selection.parse("addr=0.0.0.0/0").selects({**ROW, "address": None})


def test_the_worker_and_the_connection_of_a_selection_are_known() -> None:
    selection = Selection.parse("worker=7,id=7-1,age>1")

    assert (selection.worker, selection.connection, len(selection.conditions)) == (7, "7-1", 3)


@pytest.mark.parametrize(
    ("conditions", "problem"),
    [
        ("age", "'age' is no condition, must be NAME=TEXT, NAME>NUMBER or NAME<NUMBER"),
        ("age>", "'age>' is no condition"),
        ("AGE>1", "'AGE>1' is no condition"),
        ("age>=1", "'=1' is no number"),
        ("age>nan", "'nan' is no number"),
        ("age>1e999", "'1e999' is no number"),
        ("age=1", "'age' is nothing that a connection is selected by, must be one of id, addr, "),
        ("state>1", "'state' is no number of a connection, must be one of age, idle, "),
        ("state=asleep", "'asleep' is no state of a connection, must be one of handshaking, "),
        ("tls=1", "'1' is no answer to tls, must be yes or no"),
        ("worker=x", "'x' is no process id"),
        ("worker=99999999999", "'99999999999' is no process id"),
        ("worker=\u0663", "is no process id"),
        ("addr=10.0.0.0/99", "10.0.0.0/99"),
        ("id=1-1,id=1-2", "there are two conditions on id"),
    ],
)
def test_what_is_wrong_is_named(conditions: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        Selection.parse(conditions)

    assert problem in str(caught.value)


@given(st.text(alphabet=st.sampled_from("agewidle=<>, 0.\n\tx") | st.characters(), max_size=60))
def test_any_text_is_a_selection_or_a_value_error(text: str) -> None:
    try:
        selection = Selection.parse(text)
    except ValueError:
        return
    assert selection.selects(ROW) in (True, False)


@given(st.lists(st.tuples(st.sampled_from(SORT_KEYS), st.sampled_from("<>"), st.floats(0, 1e6)), max_size=5))
def test_numbers_are_compared_as_numbers(parts: list[tuple[str, str, float]]) -> None:
    selection = Selection.parse(",".join(f"{name}{comparison}{value!r}" for name, comparison, value in parts))
    expected = all(
        (found := ROW[NUMBERS[name]]) is not None and (found < value if comparison == "<" else found > value)
        for name, comparison, value in parts
    )

    assert selection.selects(ROW) is expected


@given(st.sampled_from(STATES))
def test_every_state_can_be_selected(state: str) -> None:
    assert Selection.parse(f"state={state}").selects({**ROW, "state": state})


def test_a_long_run_of_spaces_takes_no_time() -> None:
    """It took 10 seconds of the arbiter with a pattern that began and ended with spaces."""
    began = time.thread_time()
    Selection.parse("id=x" + " " * 60_000 + "y")

    assert time.thread_time() - began < 0.5
