"""Standard output and error of a command. Writing to them never fails, so that an output error cannot end a run.

A character that the encoding lacks is replaced (text_encoding.py). A closed descriptor becomes /dev/null. Output that
cannot be written, because the disk is full or the reader has ended (`| head -1`), is dropped.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from gserver.process.daemon import open_standard
from loadtests.text_encoding import SHOWABLE

__all__ = ["Stream", "open_streams"]


class Stream(io.RawIOBase):
    """Writes to a descriptor.

    Attributes:
        failure: the first error of a write; all later output is dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        while self.failure is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another program has made the terminal or the pipe non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.failure = error
        return len(data)

    @property
    def loss(self) -> str:
        """Why output was lost; "" if none was lost, or if its reader has ended (EPIPE)."""
        if self.failure is None or self.failure.errno == errno.EPIPE:
            return ""
        return self.failure.strerror or str(self.failure)


def open_streams() -> Stream:
    """Replace sys.stdout and sys.stderr by such streams; return that of standard output."""
    open_standard()
    output, error = Stream(1), Stream(2)
    sys.stdout = _text(output, sys.stdout.encoding, output.isatty())
    sys.stderr = _text(error, sys.stderr.encoding, True)
    return output


def _text(stream: Stream, encoding: str, by_lines: bool) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(stream), encoding, SHOWABLE, line_buffering=by_lines)
