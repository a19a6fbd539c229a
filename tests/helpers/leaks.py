"""What a test must not leave behind: open descriptors, child processes, greenlets."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

from gevent.hub import Hub
from greenlet import greenlet

from tests.helpers.processes import children_of
from tests.helpers.waiting import is_soon

__all__ = ["Stock", "assert_no_leaks", "live_greenlets", "take_stock"]


@dataclass(frozen=True)
class Stock:
    """What there was at one moment."""

    descriptors: dict[int, str]
    children: set[int]
    greenlets: set[int] | None  # None: nobody asks, for looking through all objects takes time


def take_stock(greenlets: bool = True) -> Stock:
    alive = {id(each) for each in live_greenlets()} if greenlets else None
    return Stock(open_descriptors(), children_of(os.getpid()), alive)


def assert_no_leaks(before: Stock) -> None:
    """Everything that was made since `before` has gone, or goes very soon."""

    def leaked() -> list[object]:
        now = open_descriptors()
        descriptors = [f"fd {fd}: {target}" for fd, target in now.items() if before.descriptors.get(fd) != target]
        children = [f"child {pid}" for pid in children_of(os.getpid()) - before.children]
        return [*descriptors, *children, *(new_greenlets(before.greenlets) if before.greenlets is not None else ())]

    def clean() -> bool:
        if not leaked():
            return True
        gc.collect()
        return not leaked()

    assert is_soon(clean), leaked()


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def new_greenlets(before: set[int]) -> list[greenlet]:
    return [each for each in live_greenlets() if id(each) not in before]


def live_greenlets() -> list[greenlet]:
    """All greenlets that have begun and not ended, but for hubs and the main greenlets of threads."""
    return [
        each
        for each in gc.get_objects()
        if isinstance(each, greenlet) and not isinstance(each, Hub) and each and each.parent is not None
    ]
