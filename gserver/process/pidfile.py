"""The file that holds the arbiter's process id."""

from __future__ import annotations

import contextlib
import os
import tempfile

from gserver.config.working_directory import absolute, moved_after_link, place_of
from gserver.errors import ConfigError

__all__ = ["SECOND", "Pidfile", "read_pid"]

#: Behind the path of an arbiter whose predecessor has it still, as in gunicorn.
SECOND = ".2"


class Pidfile:
    """A pid file at `path`; with None, nothing. Closes: remove() takes the file away, if it is still this process's."""

    def __init__(self, path: str | None) -> None:
        self._given = None if path is None else absolute(path)
        self.path = None if path is None else place_of(path)

    def write(self, suffix: str = "") -> None:
        """Stand there, with `suffix` behind the path; ConfigError if another process that lives has its id there, or it
        cannot be written."""
        if self.path is None:
            return
        assert self._given is not None
        self._given += suffix
        self.path += suffix
        other = read_pid(self.path)
        if other not in (None, os.getpid()) and _lives(other):
            raise ConfigError(f"pid file {self.path!r} belongs to process {other}, which runs")
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
        """Let another process have the path, if it stands at this one's with .2 behind it.

        It would come for it itself, but whoever finds this process gone and reads the file must find the other's id.
        """
        if self.path is not None and read_pid(self.path) == os.getpid() and read_pid(self.path + SECOND) == pid:
            with contextlib.suppress(OSError):  # it came for it itself
                os.rename(self.path + SECOND, self.path)

    def rename(self, path: str | None) -> None:
        """Stand at another path from now on."""
        self._given = None if path is None else absolute(path)
        old, self.path = self.path, None if path is None else place_of(path)
        if old is not None and self.path is not None and read_pid(old) == os.getpid():
            os.rename(old, self.path)

    def follow(self) -> None:
        """Stand where the path leads now, if a link in it has been moved, and that place is free."""
        if self._given is not None and self.path is not None and read_pid(self.path) == os.getpid():
            self.path = moved_after_link(self.path, self._given)

    def remove(self) -> None:
        if self.path is not None and read_pid(self.path) == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def read_pid(path: str) -> int | None:
    """The id in a pid file; None if there is no such file, or no id in it."""
    try:
        with open(path) as file:
            pid = int(file.read(32))
    except (OSError, ValueError):
        return None
    return pid if 0 < pid < 2**31 else None


def _lives(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
