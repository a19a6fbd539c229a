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

__all__ = ["ImportedFiles"]

_Version = tuple[int, int, int]  # device, inode and time of change of the content, in nanoseconds


@dataclass(frozen=True)
class ImportedFiles:
    """The files of the modules that were imported at one moment, and their versions at that moment."""

    versions: dict[str, _Version | None]  # None: it changed while this process imported
    folder: str  # the directory of the application, by the user's name for it
    release: str  # the same without symbolic links, at that moment
    recorded_at: float  # seconds since the epoch

    @classmethod
    def record(cls, folder: str, imported_since: float) -> Self:
        """Record the files now.

        Args:
            folder: the directory of the application: the setting chdir.
            imported_since: when this process began to import, in seconds since the epoch.
        """
        versions: dict[str, _Version | None] = {}
        for path in _files():
            found = _stat(path)
            if found is not None:
                versions[path] = None if found.st_ctime > imported_since else _version(found)
        return cls(versions, folder, os.path.realpath(folder), time.time())

    def changed(self) -> Iterator[str]:
        """The files that have changed, are missing, or were imported later and have changed since this was recorded.

        The directory of the application is among them if a symbolic link in its path leads to another one now.
        """
        if os.path.realpath(self.folder) != self.release:
            yield self.folder
        for path, before in self.versions.items():
            found = _stat(path)
            if found is None or _version(found) != before:
                yield path
        for path in _files():
            found = None if path in self.versions else _stat(path)
            if found is not None and found.st_ctime > self.recorded_at:
                yield path


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
    return found.st_dev, found.st_ino, found.st_mtime_ns
