"""Sleeping until a time, a signal, or until a socket is ready."""

from __future__ import annotations

import os
import signal
import socket
import time

from loadtests.sampling.wakeup import Wakeup


def test_the_end_of_the_time_returns_no_signal() -> None:
    with Wakeup(signal.SIGUSR1) as wakeup:
        began_s = time.monotonic()

        assert wakeup.wait(began_s + 0.02) == []
        assert time.monotonic() >= began_s + 0.02


def test_a_signal_ends_the_sleep_at_once_even_if_it_came_before() -> None:
    with Wakeup(signal.SIGUSR1, signal.SIGTERM) as wakeup:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)

        assert sorted(wakeup.wait(time.monotonic() + 30)) == sorted([signal.SIGUSR1, signal.SIGTERM])


def test_sockets_are_served_without_ending_the_sleep() -> None:
    here, there = socket.socketpair()
    heard: list[bytes] = []
    with here, there, Wakeup(signal.SIGUSR1) as wakeup:
        wakeup.watch(here, lambda events: heard.append(here.recv(100)))
        there.send(b"one")
        began_s = time.monotonic()
        assert wakeup.wait(began_s + 0.02) == []
        wakeup.forget(here)
        there.send(b"two")
        wakeup.wait_once(time.monotonic())

    assert time.monotonic() >= began_s + 0.02
    assert heard == [b"one"]


def test_the_previous_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Wakeup(signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) is not before

    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
