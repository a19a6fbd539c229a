"""The log of a process, bounded: its first and its last part are kept, and how much was left out between them.

The process writes to the file itself, as to any other: nothing of this program can hold it up. A thread looks at the
size four times a second, and cuts the middle out of a log that has grown too long. A server that writes 28,000 lines a
second was measured to take as long for a line as with a plain file. A pipe would bound the log to the byte, but each
line wakes its reader, and a reader that is busy makes the server wait: there a line took twice as long, and three times
at the 99th percentile. What is written between the last read of the end and the cut, some microseconds, is lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

__all__ = ["BoundedLog", "last_line"]

KEPT_BYTES = 128 * 1024  # of the beginning, and as much of the end
LONGEST_BYTES = 1024 * 1024
LOOKED_AT_EVERY_S = 0.25


class BoundedLog:
    """A file to append to, which is looked after while it is used in `with`; closes it at the end.

    Attributes:
        descriptor: for a process to write to; it appends.
    """

    def __init__(self, path: Path, longest: int = LONGEST_BYTES, kept: int = KEPT_BYTES) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._longest, self._kept = longest, kept
        self._left_out = 0
        self._note = b""  # stands where bytes were left out
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name=f"log {path.name}", daemon=True)

    def __enter__(self) -> BoundedLog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self.cut()
        os.close(self.descriptor)

    def _look_after(self) -> None:
        while not self._is_over.wait(LOOKED_AT_EVERY_S):
            self.cut()

    def cut(self) -> None:
        """Cut the middle out if the log is too long. What cannot be written stays out."""
        size = os.fstat(self.descriptor).st_size
        if size <= self._longest:
            return
        with contextlib.suppress(OSError):
            start = size - self._kept
            end = os.pread(self.descriptor, self._kept, start)
            while more := os.pread(self.descriptor, self._kept, start + len(end)):  # written meanwhile
                end += more
            os.ftruncate(self.descriptor, self._kept)
            self._left_out += start - self._kept - len(self._note)
            self._note = f"\n... {self._left_out:,} bytes were left out here ...\n".encode()
            os.write(self.descriptor, self._note + end)


def last_line(log: Path) -> str:
    """The last line of a log that is not blank; "" if there is none, or no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - KEPT_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
