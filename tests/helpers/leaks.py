"""Detect leaks of a test: open descriptors, child processes, greenlets and watchers.

A test that leaks fails. The leaks are named in its failure and closed, so that no other test fails because of them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.hub import Hub
from gevent.libev.corecext import watcher
from greenlet import greenlet

from tests.helpers.processes import children_of
from tests.helpers.waiting import PATIENCE_S, is_soon

__all__ = ["Stock", "assert_no_leaks", "live_greenlets", "take_stock"]


@dataclass(frozen=True)
class Stock:
    """The resources that exist at one moment.

    watchers: the number of active watchers of this thread's loop. A watcher that is left on a closed descriptor is
    called for events of the next file that gets the same number.
    """

    descriptors: dict[int, str]
    children: set[int]
    watchers: int
    greenlets: set[int]


def take_stock() -> Stock:
    """Return the resources of this process."""
    alive = {id(each) for each in live_greenlets()}
    return Stock(open_descriptors(), children_of(os.getpid()), gevent.get_hub().loop.activecnt, alive)


def assert_no_leaks(before: Stock, patience_s: float = PATIENCE_S) -> None:
    """Wait until all resources since `before` are released; close those that stay, and raise AssertionError."""

    def clean() -> bool:
        if not Leaks(before):
            return True
        gc.collect()
        return not Leaks(before)

    if not is_soon(clean, patience_s):
        leaks = Leaks(before)
        names = leaks.names()
        leaks.end()
        raise AssertionError("left behind: " + "; ".join(names))


class Leaks:
    """The resources that exist now and not `before`, and descriptors that were closed since."""

    def __init__(self, before: Stock) -> None:
        now = open_descriptors()
        self.greenlets = new_greenlets(before.greenlets)
        self.children = children_of(os.getpid()) - before.children
        self.descriptors = {fd: what for fd, what in now.items() if before.descriptors.get(fd) != what}
        self.missing = {fd: what for fd, what in before.descriptors.items() if fd not in now and what != os.devnull}
        self.has_watchers = gevent.get_hub().loop.activecnt > before.watchers

    def __bool__(self) -> bool:
        return bool(self.greenlets or self.children or self.descriptors or self.missing or self.has_watchers)

    def names(self) -> list[str]:
        return [
            *map(repr, self.greenlets),
            *(f"child {pid}: {command_of(pid)}" for pid in self.children),
            *(f"fd {fd}: {what}" for fd, what in self.descriptors.items()),
            *(f"fd {fd}: {what}, which the test has closed but not opened" for fd, what in self.missing.items()),
            *(f"{each!r} that calls {each.callback}" for each in active_watchers() if self.has_watchers),
        ]

    def end(self) -> None:
        for each in self.greenlets:
            end_greenlet(each)
        for pid in self.children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for each in active_watchers() if self.has_watchers else ():
            each.stop()
        close_owners(set(self.descriptors))
        still_open = open_descriptors()
        with open(os.devnull, "rb") as nothing:
            for fd, what in self.descriptors.items():
                if still_open.get(fd) == what:
                    os.dup2(nothing.fileno(), fd)  # keeps the number in use, for an owner that closes it later


def end_greenlet(each: greenlet) -> None:
    """Kill a greenlet. A plain one must be thrown into from the hub, to which it then returns."""
    if isinstance(each, gevent.Greenlet):
        each.kill(timeout=1)
    else:
        gevent.get_hub().loop.run_callback(each.throw)
        gevent.sleep(0.001)


def close_owners(descriptors: set[int]) -> None:
    """Close sockets as objects; otherwise their collection would close another file with the same number."""
    for each in gc.get_objects():
        if isinstance(each, socket.socket) and each.fileno() in descriptors:
            each.close()


def command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ").strip() or "ended, and not waited for"
    except OSError:
        return "ended"


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def active_watchers() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, watcher) and each.active and each.ref]


def new_greenlets(before: set[int]) -> list[greenlet]:
    return [each for each in live_greenlets() if id(each) not in before]


def live_greenlets() -> list[greenlet]:
    """Return all running greenlets except hubs and the main greenlets of threads."""
    return [
        each
        for each in gc.get_objects()
        if isinstance(each, greenlet) and not isinstance(each, Hub) and each and each.parent is not None
    ]
