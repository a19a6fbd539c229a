"""Starting a new arbiter and handing over to it; tests/integration/test_binary_upgrade.py has whole servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.arbiter.binary_upgrade import VARIABLE, BinaryUpgrade, Command, Descriptors, Inheritance, take_inheritance
from gserver.arbiter.signals import SignalQueue
from gserver.config.addresses import Bind, FdBind, TcpBind, UnixBind
from gserver.process.pidfile import Pidfile
from gserver.process.systemd import Notifier
from tests.helpers.processes import wait_for


def test_nothing_is_inherited_without_an_old_arbiter() -> None:
    assert take_inheritance({"HOME": "/"}) == Inheritance()


def test_what_an_old_arbiter_left_is_taken_once() -> None:
    reader, writer = os.pipe()
    environ = {
        VARIABLE: json.dumps(
            {
                "listeners": [["[::1]:5", [7, 8]]],
                "lifeline": reader,
                "activated": ["fd://3", "fd://4"],
                "names": {"fd://3": "devices"},
            }
        ),
    }
    inheritance = take_inheritance(environ)

    assert inheritance == Inheritance({TcpBind("::1", 5): [7, 8]}, reader, (FdBind(3), FdBind(4)))
    assert [each.name for each in inheritance.activated] == ["devices", ""]
    assert environ == {}
    os.close(reader)
    os.close(writer)


def test_the_listener_of_the_metrics_is_inherited_apart(signals: SignalQueue, tmp_path: Path) -> None:
    program = (
        "import os, socket; from gserver.arbiter.binary_upgrade import take_inheritance\n"
        "from gserver.config.addresses import *\n"
        "inheritance = take_inheritance(os.environ); (bind,), ((descriptor,),) = zip(*inheritance.metrics.items())\n"
        "assert (bind, inheritance.listeners) == (UnixBind('m'), {})\n"
        "socket.socket(fileno=descriptor).accept()[0].sendall(b'served')"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        upgrade = BinaryUpgrade(Command((sys.executable, "-c", program), str(tmp_path)), Inheritance())
        pid = upgrade.start(signals, {}, (), {UnixBind("m"): [listener.fileno()]})
        _, status = os.waitpid(pid, 0)

        assert (status, upgrade.lost(pid), client.recv(100)) == (0, True, b"served")


def test_what_is_inherited_is_not_left_to_other_programs() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    take_inheritance({VARIABLE: json.dumps({"listeners": [], "lifeline": reader, "activated": []})})

    assert not os.get_inheritable(reader)
    os.close(reader)
    os.close(writer)


def test_a_process_knows_how_it_was_started() -> None:
    command = Command.of_this_process()

    assert command.arguments[0] == sys.executable
    assert list(command.arguments[1:]) == sys.orig_argv[1:]
    assert command.folder == os.getcwd()


def run(program: str) -> tuple[BinaryUpgrade, int, SignalQueue]:
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", program), "/"), Inheritance())
    signals = SignalQueue()
    return upgrade, upgrade.start(signals, {}, ()), signals


def test_a_new_arbiter_gets_the_lifeline_and_sees_it_end() -> None:
    program = (
        "import os; from gserver.arbiter.binary_upgrade import take_inheritance\n"
        "lifeline = take_inheritance(os.environ).lifeline\n"
        "os._exit(9 if os.read(lifeline, 1) == b'' else 1)"
    )
    upgrade, pid, signals = run(program)
    assert upgrade.is_under_way
    assert not upgrade.has_old_arbiter
    upgrade.close()

    _, status = os.waitpid(pid, 0)
    signals.close()
    assert os.waitstatus_to_exitcode(status) == 9


def test_a_new_arbiter_that_ends_leaves_room_for_another() -> None:
    upgrade, pid, signals = run("raise SystemExit(3)")
    os.waitpid(pid, 0)
    signals.close()

    assert not upgrade.lost(pid + 1)
    assert upgrade.lost(pid)
    assert not upgrade.is_under_way


def test_a_command_that_cannot_be_executed_ends_the_child() -> None:
    upgrade = BinaryUpgrade(Command(("/nowhere/python",), "/"), Inheritance())
    signals = SignalQueue()
    pid = upgrade.start(signals, {}, ())
    _, status = os.waitpid(pid, 0)
    signals.close()

    assert os.waitstatus_to_exitcode(status) == 1
    assert upgrade.lost(pid)


def test_the_end_of_an_old_arbiter_is_seen_on_its_lifeline() -> None:
    reader, writer = os.pipe()
    upgrade = BinaryUpgrade(Command((), "/"), Inheritance(lifeline=reader))
    assert upgrade.has_old_arbiter
    assert upgrade.fileno() == reader
    os.close(writer)
    upgrade.old_arbiter_ended()

    assert not upgrade.is_under_way


@pytest.fixture
def signals() -> Iterator[SignalQueue]:
    made = SignalQueue()
    yield made
    made.close()


def run_to_its_end(program: str, signals: SignalQueue, folder: Path, listeners: Descriptors | None = None) -> int:
    """Execute the command as a new arbiter in that folder; return its exit status."""
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", program), str(folder)), Inheritance())
    pid = upgrade.start(signals, listeners or {}, (FdBind(3),))
    _, status = os.waitpid(pid, 0)
    assert upgrade.lost(pid)
    return os.waitstatus_to_exitcode(status)


BINDS = [TcpBind("127.0.0.1", 0), UnixBind("/a b", 0o600, "me"), UnixBind("/\udcff"), FdBind(3)]


@pytest.mark.parametrize("bind", BINDS, ids=ascii)
def test_a_new_arbiter_can_accept_from_what_it_inherits(signals: SignalQueue, tmp_path: Path, bind: Bind) -> None:
    program = (
        "import os, socket; from gserver.arbiter.binary_upgrade import take_inheritance\n"
        "from gserver.config.addresses import *\n"
        "inheritance = take_inheritance(os.environ); (lane,) = inheritance.listeners.values()\n"
        f"assert list(inheritance.listeners) == [{bind!a}] and inheritance.activated == (FdBind(3),)\n"
        "assert 'GSERVER_INHERITS' not in os.environ\n"
        "socket.socket(fileno=lane[1]).accept()[0].sendall(b'served')"
    )
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        client = socket.create_connection(other.getsockname(), 5)
        status = run_to_its_end(program, signals, tmp_path, {bind: [one.fileno(), other.fileno()]})

        assert not os.get_inheritable(one.fileno())
    with client:
        assert (status, client.recv(100)) == (0, b"served")


def test_a_new_arbiter_begins_where_the_command_was_given(signals: SignalQueue, tmp_path: Path) -> None:
    assert run_to_its_end("open('here', 'w')", signals, tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_folder_that_is_gone_ends_the_child(signals: SignalQueue, tmp_path: Path) -> None:
    assert run_to_its_end("pass", signals, tmp_path / "nowhere") == 1


def test_a_new_arbiter_gets_all_signals_and_no_watchdog_of_another(
    signals: SignalQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    program = (
        "import os, signal\n"
        "assert 'WATCHDOG_PID' not in os.environ\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL"
    )
    status = run_to_its_end(program, signals, tmp_path)
    signal.signal(signal.SIGHUP, before)

    assert status == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_an_old_arbiter_that_is_leaving_is_not_gone_yet() -> None:
    reader, writer = os.pipe()
    upgrade = BinaryUpgrade(Command((), "/"), Inheritance(lifeline=reader))
    assert not upgrade.is_in_charge
    os.write(writer, b"L")

    assert not upgrade.is_old_arbiter_gone()
    assert upgrade.is_in_charge
    assert upgrade.has_old_arbiter
    assert not upgrade.is_under_way
    os.close(writer)
    assert upgrade.is_old_arbiter_gone()
    upgrade.old_arbiter_ended()


def test_a_new_arbiter_is_left_to_another_parent_and_notified(
    signals: SignalQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its pid is in the pid file and at the service manager, it is not a child of this process any more."""
    monkeypatch.chdir(tmp_path)
    pidfile = Pidfile("pid")
    pidfile.write()
    program = (
        "import os; from gserver.arbiter.binary_upgrade import take_inheritance\n"
        "from gserver.process.pidfile import Pidfile\n"
        "mine = Pidfile('pid'); mine.write('.2')\n"
        "lifeline = take_inheritance(os.environ).lifeline\n"
        "words = [os.read(lifeline, 9), os.read(lifeline, 9)]\n"
        f"open('seen', 'w').write(repr((words, os.getppid() == {os.getpid()})))\n"
        "os.rename('seen', 'done')"
    )
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", program), str(tmp_path)), Inheritance())
    launcher = upgrade.start(signals, {}, ())
    new_arbiter = upgrade.new_arbiter
    assert new_arbiter not in (None, launcher)
    wait_for((tmp_path / "pid.2").exists, "the successor has its pid file")
    upgrade.hand_over(Notifier({}, os.getpid()), pidfile, end)
    assert (tmp_path / "pid").read_text() == f"{new_arbiter}\n"
    with pytest.raises(ChildProcessError):
        os.waitpid(launcher, 0)
    assert upgrade.is_under_way
    upgrade.close()

    wait_for((tmp_path / "done").exists, "the successor has ended")
    assert (tmp_path / "done").read_text() == "([b'L', b''], False)"


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_new_arbiter_that_is_killed_is_lost_with_its_signal(signals: SignalQueue) -> None:
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", "import time; time.sleep(60)"), "/"), Inheritance())
    launcher = upgrade.start(signals, {}, ())
    assert upgrade.new_arbiter is not None
    os.kill(upgrade.new_arbiter, signal.SIGKILL)
    _, status = os.waitpid(launcher, 0)

    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGKILL
    assert upgrade.lost(launcher)
    assert upgrade.new_arbiter is None


def test_a_process_that_cannot_fork_goes_on_without_a_new_arbiter(
    signals: SignalQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Callable[[], int]) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    upgrade = BinaryUpgrade(Command((sys.executable, "-c", ""), "/"), Inheritance())
    monkeypatch.setattr("gserver.arbiter.binary_upgrade.fork_child", refuse)

    assert upgrade.start(signals, {}, ()) == 0
    assert not upgrade.is_under_way


def test_a_worker_has_neither_lifeline() -> None:
    reader, writer = os.pipe()
    upgrade = BinaryUpgrade(Command((), "/"), Inheritance(lifeline=reader))
    upgrade.leave_to_child()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)
    os.close(writer)


def test_closing_twice_closes_nothing_of_others(signals: SignalQueue) -> None:
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", ""), "/"), Inheritance())
    pid = upgrade.start(signals, {}, ())
    upgrade.close()
    reader, writer = os.pipe()
    upgrade.close()

    assert os.fstat(reader)
    assert os.fstat(writer)
    for descriptor in (reader, writer):
        os.close(descriptor)
    os.waitpid(pid, 0)


# Reports about the start


def test_a_new_arbiter_reports_to_the_old_one(signals: SignalQueue) -> None:
    program = (
        "import os; from gserver.arbiter.binary_upgrade import take_inheritance\n"
        "inheritance = take_inheritance(os.environ)\n"
        "assert not os.get_inheritable(inheritance.reports) and not os.get_blocking(inheritance.reports)\n"
        "inheritance.report(version='9', failed_because='a wrong setting')"
    )
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", program), "/"), Inheritance())
    launcher = upgrade.start(signals, {}, ())
    assert upgrade.last is not None
    assert (upgrade.last["pid"], upgrade.last["is_running"]) == (upgrade.new_arbiter, True)
    os.waitpid(launcher, 0)
    assert upgrade.lost(launcher, "it ended with status 0")

    assert upgrade.last["failed_because"] == "a wrong setting"
    assert (upgrade.last["version"], upgrade.last["is_running"]) == ("9", False)


def test_before_an_upgrade_there_is_no_last_one() -> None:
    assert BinaryUpgrade(Command((), "/"), Inheritance()).last is None


def test_a_new_arbiter_that_reports_nothing_has_ended_somehow(signals: SignalQueue) -> None:
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", "raise SystemExit(3)"), "/"), Inheritance())
    launcher = upgrade.start(signals, {}, ())
    os.waitpid(launcher, 0)
    upgrade.lost(launcher, "it ended with status 3")

    assert upgrade.last is not None
    assert upgrade.last["failed_because"] == "it ended with status 3"


def test_an_old_arbiter_of_an_earlier_version_gets_no_reports() -> None:
    reader, writer = os.pipe()
    environ = {VARIABLE: json.dumps({"listeners": [], "lifeline": reader, "activated": [], "failures": writer})}
    inheritance = take_inheritance(environ)
    inheritance.report(is_ready=True)

    assert inheritance.reports is None
    os.close(reader)
    os.close(writer)


def test_a_worker_of_the_new_arbiter_cannot_report() -> None:
    lifeline = os.pipe()
    reader, writer = os.pipe()
    upgrade = BinaryUpgrade(Command((), "/"), Inheritance(lifeline=lifeline[0], reports=writer))
    upgrade.leave_to_child()

    assert os.read(reader, 10) == b""
    os.close(reader)
    os.close(lifeline[1])


def test_cancelling_quits_and_then_kills(signals: SignalQueue, tmp_path: Path) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGQUIT, lambda *given: open('quit', 'w'))\n"
        "open('runs', 'w')\nwhile True: time.sleep(1)"
    )
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", program), str(tmp_path)), Inheritance())
    upgrade.cancel()  # there is none
    launcher = upgrade.start(signals, {}, ())
    wait_for((tmp_path / "runs").exists, "it runs")
    upgrade.cancel()
    wait_for((tmp_path / "quit").exists, "it was told to quit")
    upgrade.cancel()
    _, status = os.waitpid(launcher, 0)

    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGKILL
    assert upgrade.lost(launcher)


@pytest.mark.parametrize("left", range(4))
def test_an_upgrade_without_descriptors_leaves_none_open(
    signals: SignalQueue, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    pipe = os.pipe
    calls: list[None] = []

    def scarce() -> tuple[int, int]:
        calls.append(None)
        if len(calls) > left:
            raise OSError(24, "Too many open files")
        return pipe()

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("gserver.arbiter.binary_upgrade.os.pipe", scarce)
    upgrade = BinaryUpgrade(Command((sys.executable, "-c", ""), "/"), Inheritance())
    launcher = upgrade.start(signals, {}, ())
    if launcher:
        os.waitpid(launcher, 0)
        upgrade.lost(launcher)

    assert (launcher == 0) == (left < 2)
    assert (upgrade.last is None) == (left < 2)
    assert len(os.listdir("/proc/self/fd")) == before
