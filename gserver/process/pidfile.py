"""The pid file: the file with the arbiter's process id."""

from __future__ import annotations

import contextlib
import os
import tempfile

from gserver.config.working_directory import absolute, moved_after_link, place_of
from gserver.errors import ConfigError

__all__ = ["SECOND", "Pidfile", "read_pid"]

#: Suffix of the path while the predecessor still has the pid file, as in gunicorn.
SECOND = ".2"


class Pidfile:
    """The pid file at `path`; with None, all methods do nothing. remove() removes it, if it has this process's id."""

    def __init__(self, path: str | None) -> None:
        self._given = None if path is None else absolute(path)
        self.path = None if path is None else place_of(path)

    def write(self, suffix: str = "") -> None:
        """Write the pid file, with `suffix` added to the path.

        ConfigError if the file has the id of another running process, or cannot be written.
        """
        if self.path is None:
            return
        assert self._given is not None
        self._given += suffix
        self.path += suffix
        other = read_pid(self.path)
        if other not in (None, os.getpid()) and _is_running(other):
            raise ConfigError(f"pid file {self.path!r} belongs to process {other}, which is running")
        try:
            descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path))
            try:
                with open(descriptor, "w") as file:
                    file.write(f"{os.getpid()}\n")
                os.chmod(temporary, 0o644)
                os.rename(temporary, self.path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise ConfigError(f"pid file {self.path!r} cannot be written: {error.strerror}") from error

    def hand_over(self, pid: int) -> None:
        """Rename the pid file of the successor, at this path with the suffix .2, to this path.

        The successor would rename it too. But a program that sees this process end must find the new id in the file.
        """
        if self.path is not None and read_pid(self.path) == os.getpid() and read_pid(self.path + SECOND) == pid:
            with contextlib.suppress(OSError):  # the successor has renamed it
                os.rename(self.path + SECOND, self.path)

    def rename(self, path: str | None) -> None:
        """Move the pid file to another path."""
        self._given = None if path is None else absolute(path)
        old, self.path = self.path, None if path is None else place_of(path)
        if old is not None and self.path is not None and read_pid(old) == os.getpid():
            os.rename(old, self.path)

    def follow(self) -> None:
        """Move the pid file to where its path leads now, if a link in the path was moved and nothing is there yet."""
        if self._given is not None and self.path is not None and read_pid(self.path) == os.getpid():
            self.path = moved_after_link(self.path, self._given)

    def remove(self) -> None:
        if self.path is not None and read_pid(self.path) == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def read_pid(path: str) -> int | None:
    """Return the id in a pid file; None if there is no file, or no id in it."""
    try:
        with open(path) as file:
            pid = int(file.read(32))
    except (OSError, ValueError):
        return None
    return pid if 0 < pid < 2**31 else None


def _is_running(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
