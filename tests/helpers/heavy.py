"""Functions for the tests of gserver.offload, which processes of a pool import by name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

__all__ = [
    "Stubborn",
    "Unpicklable",
    "add",
    "descriptors",
    "die",
    "exit_with",
    "fail",
    "fail_stubbornly",
    "fork_and_die",
    "is_patched",
    "make_unpicklable",
    "pid",
    "run_threads",
    "start_sleeper",
    "wait_for_file",
]

PATIENCE_S = 30.0


class Stubborn(Exception):
    """An exception that can be pickled, and not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("a socket is inside")


def add(first: int, second: int) -> int:
    return first + second


def pid() -> int:
    return os.getpid()


def fail(text: str) -> None:
    raise KeyError(text)


def fail_stubbornly() -> None:
    raise Stubborn("one", "two")


def make_unpicklable() -> Unpicklable:
    return Unpicklable()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with(status: int) -> None:
    os._exit(status)


def fork_and_die() -> None:
    """Die while a forked process lives on, which has copies of all descriptors."""
    if os.fork() == 0:
        time.sleep(PATIENCE_S)
        os._exit(0)
    os._exit(7)


def wait_for_file(path: str, begun: str = "") -> int:
    """Wait until the file exists; return the pid. `begun`: a file to make at first."""
    if begun:
        Path(begun).write_text(str(os.getpid()))
    deadline = time.monotonic() + PATIENCE_S
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.getpid()


def start_sleeper(path: str) -> None:
    """Start a program that sleeps, write its pid to the file, and wait for it."""
    sleeper = subprocess.Popen(["sleep", "60"])
    Path(path).write_text(str(sleeper.pid))
    sleeper.wait()


def run_threads(count: int) -> list[int]:
    """The ids of so many threads of the operating system that run at the same time, and what a program prints."""
    barrier, found = threading.Barrier(count), []

    def run() -> None:
        barrier.wait(PATIENCE_S)
        found.append(threading.get_native_id())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    printed = subprocess.run(["echo", "7"], stdout=subprocess.PIPE, check=True).stdout
    return [*sorted(set(found)), int(printed)]


def is_patched() -> bool:
    return any(cls.__module__.startswith("gevent") for cls in socket.socket.__mro__)


def descriptors() -> dict[int, str]:
    """What the open descriptors lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one of listdir()
            continue
    return found
