"""The files that this worker's code comes from: whether one of them has changed since it was imported.

A reload that changes only live settings keeps the workers if their code is still the code on disk.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

__all__ = ["ImportBeginning", "ImportedFiles"]

# Device, inode, and the time at which the inode was changed last (ctime), in nanoseconds. The time of the content
# (mtime) would not do: programs that unpack releases set it. Nothing but the kernel sets the other.
_Version = tuple[int, int, int]
# The kernel takes the times of files from a clock that is up to one tick late; a tick has 10 ms at most.
_TICK_S = 0.01


@dataclass(frozen=True)
class ImportedFiles:
    """The files of the modules that were imported at one moment, and their versions at that moment."""

    versions: dict[str, _Version | None]  # None: it changed while this process imported
    folder: str  # the directory of the application, by the user's name for it
    release: str  # the same without symbolic links, before the import
    recorded_at: float  # seconds since the epoch

    @classmethod
    def record(cls, folder: str, began: ImportBeginning) -> Self:
        """Record the files now.

        Args:
            folder: the directory of the application: the setting chdir.
            began: made before this process began to import.
        """
        versions: dict[str, _Version | None] = {}
        for path in _files():
            found = _stat(path)
            if found is not None:
                versions[path] = None if _has_changed_since(found, began.at) else _version(found)
        return cls(versions, folder, began.release, time.time())

    def changed(self) -> Iterator[str | None]:
        """The files that have changed, are missing, or were imported later and have changed since this was recorded.

        The directory of the application is among them if a symbolic link in its path leads to another one now. None
        for each file that has not changed: there are a thousand, and the worker must be able to do other things.
        """
        if os.path.realpath(self.folder) != self.release:
            yield self.folder
        for path, before in self.versions.items():
            found = _stat(path)
            yield path if found is None or _version(found) != before else None
        for path in _files():
            found = None if path in self.versions else _stat(path)
            yield path if found is not None and _has_changed_since(found, self.recorded_at) else None


@dataclass(frozen=True)
class ImportBeginning:
    """The moment before a process begins to import the application."""

    at: float  # seconds since the epoch
    release: str  # the directory of the application, without symbolic links

    @classmethod
    def now(cls, folder: str) -> Self:
        """folder: the directory of the application: the setting chdir."""
        return cls(time.time(), os.path.realpath(folder))


def _files() -> Iterator[str]:
    for module in list(sys.modules.values()):
        path = _file_of(module)
        if path is not None:
            yield path


def _file_of(module: Any) -> str | None:
    """The source or the archive of a module; None without one."""
    if not isinstance(module, ModuleType):  # modules may put anything there
        return None
    archive = getattr(getattr(module, "__loader__", None), "archive", None)
    path = archive if isinstance(archive, str) else getattr(module, "__file__", None)
    return path if isinstance(path, str) and os.path.isabs(path) else None


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _version(found: os.stat_result) -> _Version:
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _has_changed_since(found: os.stat_result, moment: float) -> bool:
    return found.st_ctime >= moment - _TICK_S
