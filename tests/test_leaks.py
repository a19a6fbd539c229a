"""The check for leaks: a leak fails the test that caused it, and no other test."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event
from greenlet import greenlet

from tests.helpers.leaks import assert_no_leaks, take_stock

#: Keeps the leaked objects alive.
KEPT: list[object] = []


@pytest.fixture(autouse=True)
def _kept() -> None:
    KEPT.clear()


def leave_a_greenlet() -> None:
    KEPT.append(gevent.spawn(Event().wait))
    gevent.sleep(0)


def leave_a_plain_greenlet() -> None:
    hub = gevent.get_hub()
    KEPT.append(waiting := greenlet(hub.switch, hub))
    hub.loop.run_callback(waiting.switch)
    gevent.sleep(0)


def leave_a_child() -> None:
    KEPT.append(subprocess.Popen(["sleep", "600"]))


def leave_a_socket() -> None:
    KEPT.append(socket.socket())


def leave_a_watcher_on_a_closed_socket() -> None:
    ours, theirs = socket.socketpair()
    watcher = gevent.get_hub().loop.io(ours.fileno(), 1)
    watcher.start(print)
    KEPT.append(watcher)
    gevent.sleep(0.001)  # the loop must see the descriptor open first: it aborts on one that is closed at once
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("leave", "named"),
    [
        (leave_a_greenlet, r"<Greenlet at .*Event.wait"),
        (leave_a_plain_greenlet, r"<greenlet\.greenlet object"),
        (leave_a_child, r"child \d+: sleep 600"),
        (leave_a_socket, r"fd \d+: socket:"),
        (leave_a_watcher_on_a_closed_socket, r"<io at .*> that calls <built-in function print>"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_leak_is_named_and_closed(leave: Callable[[], None], named: str) -> None:
    before = take_stock()
    leave()

    with pytest.raises(AssertionError, match=f"^left behind: {named}"):
        assert_no_leaks(before, patience_s=0.02)

    assert_no_leaks(before, patience_s=0.02)


def test_a_leaked_socket_does_not_close_a_later_one_with_the_same_number() -> None:
    before = take_stock()
    left = socket.socket()
    number = left.fileno()
    with pytest.raises(AssertionError):
        assert_no_leaks(before, patience_s=0.02)
    with socket.socket() as next_one:
        left.close()

        assert next_one.fileno() == number
        assert os.fstat(number)


def test_the_number_of_a_leaked_descriptor_stays_in_use_until_its_owner_closes_it() -> None:
    before = take_stock()
    left = os.open(__file__, os.O_RDONLY)
    with pytest.raises(AssertionError, match=f"^left behind: fd {left}: {__file__}$"):
        assert_no_leaks(before, patience_s=0.02)

    assert os.path.samestat(os.fstat(left), os.stat(os.devnull))
    os.close(left)


def test_closing_a_descriptor_of_another_owner_is_named() -> None:
    with open(__file__, "rb") as foreign:
        before = take_stock()
        os.close(foreign.fileno())

        with pytest.raises(AssertionError, match=rf"^left behind: fd {foreign.fileno()}: .*, which the test has"):
            assert_no_leaks(before, patience_s=0.02)
        assert os.open(os.devnull, os.O_RDONLY) == foreign.fileno()


def test_a_greenlet_that_ends_soon_is_no_leak() -> None:
    before = take_stock()
    gevent.spawn(gevent.sleep, 0.02)
    gevent.sleep(0)

    assert_no_leaks(before)
