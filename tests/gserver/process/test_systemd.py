"""Sockets from systemd and messages to it, with a datagram socket in place of systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.config.addresses import FdBind
from gserver.process.systemd import Notifier, is_journal, take_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        is_path = request.param == "path"
        bound.bind(str(tmp_path / "notify") if is_path else f"\0gserver-test-{os.getpid()}-{id(request)}")
        bound.settimeout(60)
        yield bound


def environment(manager: socket.socket) -> dict[str, str]:
    name = manager.getsockname()
    return {"NOTIFY_SOCKET": "@" + name[1:].decode() if isinstance(name, bytes) else name}


def test_sockets_are_taken_once_and_in_order() -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"}

    taken = take_sockets(environ, 7)

    assert taken == (FdBind(3), FdBind(4))
    assert [each.name for each in taken] == ["a", "b"]
    assert environ == {"HOME": "/"}


def test_an_old_systemd_passes_no_names() -> None:
    taken = take_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 7)

    assert [(str(each), each.name) for each in taken] == [("fd://3", ""), ("fd://4", "")]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "8", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        *({"LISTEN_PID": "7", "LISTEN_FDS": bad} for bad in ("", "x", "-1", "0", "1.5", "\N{SUPERSCRIPT TWO}")),
        {"LISTEN_PID": "7"},
    ],
)
def test_sockets_for_another_process_are_not_taken_and_the_variables_are_removed(environ: dict[str, str]) -> None:
    assert take_sockets(environ, 7) == ()
    assert environ == {}


def test_the_service_manager_gets_all_messages(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager), 7)

    notifier.ready("2 workers")
    assert manager.recv(100) == b"READY=1\nSTATUS=2 workers"
    notifier.reloading()
    assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notifier.stopping()
    assert manager.recv(100).startswith(b"STOPPING=1\n")
    notifier.took_over(8)
    assert manager.recv(100).startswith(b"MAINPID=8\n")


def nothing_waits(manager: socket.socket) -> bool:
    manager.setblocking(False)
    try:
        manager.recv(1000)
    except BlockingIOError:
        return True
    return False


def test_a_stop_may_take_as_long_as_the_drain(manager: socket.socket) -> None:
    Notifier(environment(manager), 7).stopping(20.0)

    assert manager.recv(100).splitlines()[-1] == b"EXTEND_TIMEOUT_USEC=25000000"


def test_after_a_hand_over_nothing_more_is_reported(manager: socket.socket) -> None:
    notifier = Notifier({**environment(manager), "WATCHDOG_USEC": "4000000"}, 7)
    notifier.hand_over(8)
    assert manager.recv(100) == b"MAINPID=8\n"

    notifier.ready("")
    notifier.reloading()
    notifier.stopping()
    notifier.hand_over(8)
    assert notifier.pings_at is None
    assert nothing_waits(manager)


def test_a_reload_does_not_outlive_the_process_that_reported_it(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager), 7)
    notifier.reloading()
    manager.recv(100)
    notifier.hand_over(8)

    assert manager.recv(100) == b"MAINPID=8\nREADY=1\n"


def test_a_successor_reports_only_that_it_is_ready_until_it_has_taken_over(manager: socket.socket) -> None:
    notifier = Notifier({**environment(manager), "WATCHDOG_USEC": "4000000"}, 8, is_main=False)
    assert notifier.pings_at is None
    notifier.reloading()
    notifier.stopping()
    notifier.ready("1 workers")
    assert manager.recv(100) == b"READY=1\nSTATUS=1 workers"

    notifier.took_over(8)
    assert manager.recv(100) == b"MAINPID=8\n"
    assert notifier.pings_at is not None
    notifier.ping(notifier.pings_at)
    assert manager.recv(100) == b"WATCHDOG=1"
    notifier.stopping()
    assert manager.recv(100).startswith(b"STOPPING=1\n")


def test_taking_over_twice_pings_no_sooner(manager: socket.socket) -> None:
    notifier = Notifier({**environment(manager), "WATCHDOG_USEC": "4000000"}, 8, is_main=False)
    notifier.took_over(8)
    notifier.ping(1e9)
    notifier.took_over(8)

    assert notifier.pings_at == 1e9 + 2.0


def test_the_watchdog_is_fed_at_half_its_time(manager: socket.socket) -> None:
    notifier = Notifier({**environment(manager), "WATCHDOG_USEC": "4000000"}, 7)
    first = notifier.pings_at
    assert first is not None

    notifier.ping(first - 0.1)
    notifier.ping(first)

    assert manager.recv(100) == b"WATCHDOG=1"
    assert notifier.pings_at == first + 2.0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_a_ping_that_came_late_moves_the_next_one(manager: socket.socket) -> None:
    notifier = Notifier({**environment(manager), "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "7"}, 7)
    assert notifier.pings_at is not None
    late = notifier.pings_at + 100

    notifier.ping(late)

    assert notifier.pings_at == late + 2.0


BAD_USEC = ["often", "", "0", "-5", "1.5", "\N{SUPERSCRIPT TWO}"]


@pytest.mark.parametrize(
    "more", [{}, {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "8"}, *({"WATCHDOG_USEC": bad} for bad in BAD_USEC)]
)
def test_without_a_watchdog_of_its_own_it_never_wakes_up(manager: socket.socket, more: dict[str, str]) -> None:
    assert Notifier({**environment(manager), **more}, 7).pings_at is None


@pytest.mark.parametrize(
    "environ",
    [{}, *({"NOTIFY_SOCKET": bad} for bad in ("", "/nowhere/at/all", "@gserver-nobody", "@", "/" + "x" * 200))],
)
def test_a_manager_that_is_not_there_is_no_trouble(environ: dict[str, str]) -> None:
    notifier = Notifier(environ, 7)

    notifier.ready("")
    notifier.stopping()


def test_without_a_manager_there_is_no_watchdog() -> None:
    assert Notifier({"WATCHDOG_USEC": "4000000"}, 7).pings_at is None


TALKATIVE = """
import os, signal
from gserver.process.systemd import Notifier
signal.alarm(5)
notifier = Notifier(os.environ, os.getpid())
for _ in range(5000):
    notifier.ready("again")
"""


def test_a_manager_that_does_not_read_never_holds_up_the_server(manager: socket.socket) -> None:
    environ = {**os.environ, **environment(manager)}
    ended = subprocess.run([sys.executable, "-c", TALKATIVE], env=environ, timeout=60, check=False)

    assert ended.returncode == 0


# The journal


def test_a_descriptor_is_the_journal_if_its_device_and_inode_are_those_of_the_variable() -> None:
    ours, theirs = os.pipe()
    found = os.fstat(theirs)
    right = f"{found.st_dev}:{found.st_ino}"
    try:
        assert is_journal(theirs, {"JOURNAL_STREAM": right})
        for wrong in (f"{found.st_dev}:{found.st_ino + 1}", f"{found.st_dev + 1}:{found.st_ino}", "", "x", f"{right} "):
            assert not is_journal(theirs, {"JOURNAL_STREAM": wrong})
        assert not is_journal(theirs, {})
    finally:
        os.close(ours)
        os.close(theirs)
    assert not is_journal(theirs, {"JOURNAL_STREAM": right})  # closed
