"""Handing over to a new arbiter; the whole of it is in test_arbiter_place.py."""

from __future__ import annotations

import json
import os
import sys

from gserver.arbiter.signals import SignalQueue
from gserver.arbiter.succession import VARIABLE, Command, Inheritance, Succession, take_inheritance
from gserver.bind import FdBind, TcpBind


def test_nothing_is_inherited_without_a_predecessor() -> None:
    assert take_inheritance({"HOME": "/"}) == Inheritance()


def test_what_a_predecessor_left_is_taken_once() -> None:
    reader, writer = os.pipe()
    environ = {
        VARIABLE: json.dumps({"listeners": [["[::1]:5", [7, 8]]], "lifeline": reader, "activated": ["fd://3"]}),
    }
    inheritance = take_inheritance(environ)

    assert inheritance == Inheritance({TcpBind("::1", 5): [7, 8]}, reader, (FdBind(3),))
    assert environ == {}
    os.close(reader)
    os.close(writer)


def test_a_process_knows_how_it_was_started() -> None:
    command = Command.of_this_process()

    assert command.words[0] == sys.executable
    assert list(command.words[1:]) == sys.orig_argv[1:]
    assert command.folder == os.getcwd()


def run(program: str) -> tuple[Succession, int, SignalQueue]:
    succession = Succession(Command((sys.executable, "-c", program), "/"), Inheritance())
    signals = SignalQueue()
    return succession, succession.begin(signals, {}, ()), signals


def test_a_successor_gets_the_lifeline_and_sees_it_end() -> None:
    program = (
        "import os; from gserver.arbiter.succession import take_inheritance\n"
        "lifeline = take_inheritance(os.environ).lifeline\n"
        "os._exit(9 if os.read(lifeline, 1) == b'' else 1)"
    )
    succession, pid, signals = run(program)
    assert succession.is_under_way
    assert not succession.has_predecessor
    succession.close()

    _, status = os.waitpid(pid, 0)
    signals.close()
    assert os.waitstatus_to_exitcode(status) == 9


def test_a_successor_that_ends_leaves_room_for_another() -> None:
    succession, pid, signals = run("raise SystemExit(3)")
    os.waitpid(pid, 0)
    signals.close()

    assert not succession.lost(pid + 1)
    assert succession.lost(pid)
    assert not succession.is_under_way


def test_a_command_that_cannot_be_executed_ends_the_child() -> None:
    succession = Succession(Command(("/nowhere/python",), "/"), Inheritance())
    signals = SignalQueue()
    pid = succession.begin(signals, {}, ())
    _, status = os.waitpid(pid, 0)
    signals.close()

    assert os.waitstatus_to_exitcode(status) == 1
    assert succession.lost(pid)


def test_the_end_of_a_predecessor_is_seen_on_its_lifeline() -> None:
    reader, writer = os.pipe()
    succession = Succession(Command((), "/"), Inheritance(lifeline=reader))
    assert succession.has_predecessor
    assert succession.fileno() == reader
    os.close(writer)
    succession.predecessor_ended()

    assert not succession.is_under_way
