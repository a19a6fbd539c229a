"""A log handler that never blocks and never prints a traceback: what cannot be written is lost, counted and reported.

No thread writes. A line is written at once, in the call that logs it: a process that is killed has written all its
lines, and a fork finds no thread and no lock. A line that a pipe or a socket does not take now waits in a queue of
QUEUE_BYTES. It is tried again with the next line, by retry(), which the process calls once a second, and for a second
in flush(). A line that finds the queue full is lost, and so is one whose write fails, such as on a full disk. How many
lines were lost is reported at once, then at most once in REPORT_S seconds.

A writer thread was the alternative. It would wake up for each line, lose the last lines of a process that crashes, and
have to be started again after each fork. Its one advantage: a network disk that hangs would block that thread alone.

Lines of one process keep their order. A signal handler may log while the interrupted code logs: its line comes next.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable

from gserver.process.log_output import Output

__all__ = ["FLUSH_S", "QUEUE_BYTES", "REPORT_S", "LogHandler", "finish"]

QUEUE_BYTES = 256 * 1024
REPORT_S = 10.0
# What a process that ends waits for those that read its logs, all of them together.
FLUSH_S = 1.0

_handlers: weakref.WeakSet[LogHandler] = weakref.WeakSet()
_STANDARD_ERROR = 2
_NOT_READ = "it is not read"


class LogHandler(logging.Handler):
    """Write each record to an output, and keep the rest for later.

    Args:
        title: what the report of lost lines calls this log.
        output: closed by retire().
        path: of the file, if it is one that may be moved away.
        report: called with the text when lines were lost; None: it is a line of this log itself, and while that cannot
            be written, one of standard error.
    """

    def __init__(
        self, title: str, output: Output, path: str | None = None, report: Callable[[str], None] | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self._title = title
        self.output = output
        self._report_elsewhere = report
        self._reports_at = -math.inf
        self.forget()
        _handlers.add(self)

    def forget(self) -> None:
        """Begin without anything that waits to be written or reported."""
        self.lost = 0  # lines that were not reported yet
        self._why = _NOT_READ  # the last of them were lost
        self._has_failed = False  # the last write did
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._is_torn = False  # the first line of the queue has begun to be written
        self._is_writing = False

    @property
    def reports_itself(self) -> bool:
        return self._report_elsewhere is None

    @property
    def is_behind(self) -> bool:
        """Whether retry() has something to do."""
        return bool(self._queue or self.lost)

    def emit(self, record: logging.LogRecord) -> None:
        self._offer(self._line_of(record))
        if self.lost:
            self._report_if_due()

    def _line_of(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except BaseException as error:  # arguments that do not fit the message are no reason to print a traceback
            words = record.msg if isinstance(record.msg, str) else type(record.msg)
            text = f"{record.name} logged what cannot be formatted: {words!r} ({type(error).__name__}: {error})"
        return (text + "\n").encode("utf-8", "backslashreplace")

    def _offer(self, line: bytes) -> None:
        if self._queued_bytes < QUEUE_BYTES:
            self._queue.append(line)
            self._queued_bytes += len(line)
        else:
            self.lost += 1
        self._write()

    def _write(self) -> None:
        """Write what is queued, as far as it goes now."""
        if self._is_writing:  # a signal handler has interrupted this loop, which goes on with its line
            return
        self._is_writing = True
        try:
            while self._queue:
                line = self._queue[0]
                written = self.output.write(line)
                self._queued_bytes -= written
                self._is_torn = written < len(line)
                if self._is_torn:
                    self._queue[0] = line[written:]
                else:
                    self._queue.popleft()
            self._has_failed = False
        except BlockingIOError:
            self._has_failed, self._why = False, _NOT_READ
        except OSError as error:
            self._has_failed, self._why = True, error.strerror or str(error)
            self._discard()
        finally:
            self._is_writing = False

    def _discard(self) -> None:
        """Lose what is queued, but the rest of a line that has begun: without it the next one would be glued to it."""
        rest = self._queue[0] if self._is_torn else None
        self.lost += len(self._queue) - (rest is not None)
        self._queue.clear()
        if rest is not None:
            self._queue.append(rest)
        self._queued_bytes = len(rest or b"")

    # Reporting what was lost

    def _report_if_due(self) -> None:
        if time.monotonic() >= self._reports_at:
            self._reports_at = time.monotonic() + REPORT_S
            self._report()

    def _report(self) -> None:
        lost, self.lost = self.lost, 0
        text = f"The {self._title} lost lines: {lost} ({self._why})"
        if self._report_elsewhere is not None:
            self._report_elsewhere(text)
            return
        self._offer(self._line_of(logging.LogRecord("gserver", logging.ERROR, "", 0, text, (), None)))
        if self.lost:  # this line as well, which does not count
            self.lost = lost
            if not self.output.is_same_file(_STANDARD_ERROR):
                _write_to_standard_error(text)

    # What the process does with its logs

    def retry(self) -> None:
        """Write what waits, and report what was lost if it is time for that."""
        if not self.is_behind:
            return
        self.acquire()
        try:
            self._write()
            if self.lost:
                self._report_if_due()
        finally:
            self.release()

    def use(self, output: Output) -> None:
        """Go on in another output; the one before is closed. What waits goes to the new one."""
        self.acquire()
        try:
            self._leave_output()
            before, self.output = self.output, output
            before.close()
        finally:
            self.release()

    def inherit(self, before: LogHandler) -> None:
        """Take over what waits in a handler that this one replaces."""
        before.acquire()
        try:
            before._leave_output()
            self._queue, self._queued_bytes = before._queue, before._queued_bytes
            self.lost, self._why = before.lost, before._why
            before.forget()
        finally:
            before.release()

    def _leave_output(self) -> None:
        """Write what goes now; the rest of a line that has begun belongs nowhere else."""
        self._write()
        if self._is_torn:
            self._queued_bytes -= len(self._queue.popleft())
            self._is_torn = False
            self.lost += 1

    def flush(self) -> None:
        """Write what waits, and block for that while the time for it lasts: FLUSH_S, for all logs that are flushed."""
        self.acquire()
        try:
            self._is_writing = False  # if a signal handler has interrupted that loop, the process ends in the handler
            until = _flush_deadline(time.monotonic())
            self._write()
            while self._queue and not self._has_failed and (left := until - time.monotonic()) > 0:
                self.output.wait(left)
                self._write()
        finally:
            self.release()

    def close(self) -> None:
        """Write what waits as far as it goes now, lose the rest, and report what was lost.

        The output stays open: an application that configures logging has all handlers of the process closed, and these
        are still in use. See retire().
        """
        self.acquire()
        try:
            self._write()
            self.lost += len(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            self._is_torn = False
            if self.lost:
                self._report()
        finally:
            self.release()
        super().close()

    def retire(self) -> None:
        """Close the handler, and its output as well."""
        self.close()
        self.output.close()
        self.output = Output(-1, _refuse)


_flushes_until = -FLUSH_S


def _flush_deadline(now: float) -> float:
    """Two logs that are flushed one after the other share one deadline."""
    global _flushes_until
    if now > _flushes_until + FLUSH_S:
        _flushes_until = now + FLUSH_S
    return _flushes_until


def _refuse(data: bytes) -> int:
    raise OSError(errno.EBADF, "it is closed")


def _write_to_standard_error(text: str) -> None:
    with contextlib.suppress(OSError):
        Output.of_standard(_STANDARD_ERROR, may_hold=False).write(
            f"gserver: {text}\n".encode("utf-8", "backslashreplace")
        )


def _forget_in_child() -> None:
    """What waited at a fork is the parent's to write."""
    for handler in _handlers:
        handler.forget()


def finish() -> None:
    """For the end of a process: write what its logs still have, for FLUSH_S at most, and shut logging down."""
    for handler in sorted(_handlers, key=lambda each: each.reports_itself):  # the others report to those
        handler.flush()
        handler.close()
    logging.shutdown()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(finish)
