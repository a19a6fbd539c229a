"""--reload: a process that watches files and sends HUP to the arbiter when one of them has changed.

It watches the Python files under a folder, except in hidden folders, caches and virtual environments; the config file;
and the files that the extra patterns match. The arbiter itself needs no thread and no timer for this.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gserver.arbiter.child_processes import Death, Ended, Processes
from gserver.errors import ConfigError
from gserver.process import logs

__all__ = ["Reloader", "WatchedFiles", "check_engine", "watch_files"]

log = logging.getLogger("gserver.arbiter")

POLL_S = 0.5
# How often the process checks that the arbiter still runs while no file changes, in milliseconds.
CHECK_PARENT_MS = 1000
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "node_modules"}

Snapshot = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class WatchedFiles:
    """The files to watch."""

    folder: str
    config_file: str | None = None
    patterns: Sequence[str] = ()

    @property
    def roots(self) -> list[str]:
        """The folders that hold all of these files, also those that do not exist yet."""
        config = [os.path.dirname(self.config_file)] if self.config_file else []
        return sorted({self.folder, *config, *map(_root_of, self.patterns)})

    def snapshot(self) -> Snapshot:
        """By path: time of the last write, size and inode. The inode changes if a link leads to another folder."""
        found: Snapshot = {}
        for path in self._files():
            try:
                status = os.stat(path)
            except OSError:
                continue
            found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        return found

    def _files(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not _is_skipped(name) and not _is_environment(folder, name)]
            yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))
        if self.config_file:
            yield self.config_file
        for pattern in self.patterns:
            yield from glob.glob(os.path.abspath(pattern), recursive=True)


def _root_of(pattern: str) -> str:
    """The deepest existing folder above all files that a pattern can match."""
    fixed = os.path.abspath(pattern).split(os.sep)
    wild = next((index for index, part in enumerate(fixed) if glob.has_magic(part)), len(fixed) - 1)
    folder = os.sep.join(fixed[:wild]) or os.sep
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_skipped(name: str) -> bool:
    return name in _SKIPPED_FOLDERS or (name.startswith(".") and name != "..")


def _is_environment(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))


def has_watchfiles() -> bool:
    return importlib.util.find_spec("watchfiles") is not None


def check_engine(engine: str) -> None:
    """ConfigError if the engine is watchfiles and that is not installed."""
    if engine == "watchfiles" and not has_watchfiles():
        raise ConfigError("setting reload_engine is 'watchfiles', which is not installed: pip install watchfiles")


def watch_files(watched: WatchedFiles, engine: str, arbiter: int) -> int:
    """Watch until the arbiter has ended, and send it HUP after every change; return an exit status.

    Both engines compare the same snapshots. With watchfiles the system reports changes, which saves a snapshot every
    half second.
    """
    before = watched.snapshot()
    by_polling = engine == "poll" or not has_watchfiles()
    for _ in _polls() if by_polling else _notifications(watched):
        if os.getppid() != arbiter:
            return 0
        now = watched.snapshot()
        if now != before:
            _log_changes(sorted(path for path in now.keys() | before.keys() if now.get(path) != before.get(path)))
            before = now
            with contextlib.suppress(ProcessLookupError):  # the arbiter has just ended
                _send_hup(arbiter)
    return 0


class Reloader:
    """The arbiter's side: starts and stops the process that watches.

    Args:
        fork: called with the function to run in the child and the function to call at its end; returns the pid.
    """

    def __init__(self, fork: Callable[[Callable[[], int], Ended], int], processes: Processes) -> None:
        self._fork = fork
        self._processes = processes
        self._pid: int | None = None

    def start(self, watched: WatchedFiles, engine: str) -> None:
        self._pid = self._fork(functools.partial(watch_files, watched, engine, os.getpid()), self._ended)

    def stop(self) -> None:
        if self._pid is not None:
            pid, self._pid = self._pid, None
            self._processes.signal(pid, signal.SIGTERM)

    def _ended(self, death: Death) -> None:
        if self._pid is not None:
            self._pid = None
            log.error("The reloader has ended (%s): files are not watched any more", death.how)


def _send_hup(arbiter: int) -> None:
    """Send HUP to the parent, but not to another process that got its pid after its end."""
    descriptor = os.pidfd_open(arbiter)
    try:
        if os.getppid() == arbiter:
            signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    finally:
        os.close(descriptor)


def _polls() -> Iterator[None]:
    while True:
        time.sleep(POLL_S)
        yield


def _notifications(watched: WatchedFiles) -> Iterator[None]:
    """Yield after each event in the folders, and at least once a second."""
    import watchfiles

    for _ in watchfiles.watch(
        *watched.roots,
        watch_filter=None,
        debounce=200,
        step=50,
        rust_timeout=CHECK_PARENT_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    ):
        yield


def _log_changes(paths: Sequence[str]) -> None:
    logs.reopen()  # they may have been rotated, and this process has no channel for REOPEN
    log.info("Changed: %s", ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else ""))
