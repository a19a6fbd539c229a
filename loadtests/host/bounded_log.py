"""A log file of bounded size: keeps the beginning and the end, and a note of how many bytes were left out.

The process writes directly to the file, so nothing here can delay it. A thread checks the size four times a second, and
removes the middle of a log that is too long. With a server that writes 28,000 lines per second, a line took as long as
with a plain file. A pipe would bound the log to the byte, but each line wakes the reader, and a busy reader blocks the
server: a line took twice as long, and three times at p99. Output within the few microseconds between the last read and
the cut is lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

__all__ = ["BoundedLog", "last_line"]

KEPT_BYTES = 128 * 1024  # of the beginning, and as many of the end
LONGEST_BYTES = 1024 * 1024
CHECK_INTERVAL_S = 0.25


class BoundedLog:
    """A log file that is kept short within `with`; leaving it closes the file.

    Attributes:
        descriptor: of the file, opened for appending; for the process that writes.
    """

    def __init__(self, path: Path, longest: int = LONGEST_BYTES, kept: int = KEPT_BYTES) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._longest, self._kept = longest, kept
        self._left_out = 0
        self._note = b""  # marks the place where bytes were left out
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_short, name=f"log {path.name}", daemon=True)

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

    def _keep_short(self) -> None:
        while not self._is_over.wait(CHECK_INTERVAL_S):
            self.cut()

    def cut(self) -> None:
        """Remove the middle if the log is too long. A part that cannot be written back is lost."""
        size = os.fstat(self.descriptor).st_size
        if size <= self._longest:
            return
        with contextlib.suppress(OSError):
            start = size - self._kept
            end = os.pread(self.descriptor, self._kept, start)
            while more := os.pread(self.descriptor, self._kept, start + len(end)):  # written in the meantime
                end += more
            os.ftruncate(self.descriptor, self._kept)
            self._left_out += start - self._kept - len(self._note)
            self._note = f"\n... {self._left_out:,} bytes were left out here ...\n".encode()
            os.write(self.descriptor, self._note + end)


def last_line(log: Path) -> str:
    """The last line of a log that is not blank; "" if there is none, or if the log cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - KEPT_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
