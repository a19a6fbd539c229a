"""A log handler that never blocks: lines that cannot be written are dropped, counted and reported.

Each line is written at once, in the call that logs it. So a process that is killed has written all its lines, and a
fork meets no thread and no lock. If a pipe or a socket does not accept a line, the line waits in a queue of
QUEUE_BYTES. The queue is written again with the next line, by retry(), which the process calls once per second, and for
up to FLUSH_S seconds in flush(). A line is lost if the queue is full, or if its write fails, for example on a full
disk. The number of lost lines is reported at once, then at most once in REPORT_S seconds.

A writer thread would wake up for each line, lose the last lines of a process that crashes, and have to be restarted
after each fork. Its only advantage: a network disk that hangs would block only that thread.

The lines of a process keep their order. A signal handler may log while it interrupts a call that logs: its line is the
next one.
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

from gserver.process.log_formats import unformattable
from gserver.process.log_output import Output

__all__ = ["FLUSH_S", "QUEUE_BYTES", "REPORT_S", "LogHandler", "finish"]

QUEUE_BYTES = 256 * 1024
REPORT_S = 10.0
# Maximum time, in seconds, that an exiting process waits for the readers of all its logs together.
FLUSH_S = 1.0

_handlers: weakref.WeakSet[LogHandler] = weakref.WeakSet()
_STANDARD_ERROR = 2
_NOT_READ = "it is not read"


class LogHandler(logging.Handler):
    """Writes each record to an output; queues what the output does not accept.

    Args:
        title: the name of this log in the report of lost lines.
        output: closed by retire().
        path: the path, for a file that log rotation may move.
        report: called with the report of lost lines; None: the report is a line of this log, or, if that cannot be
            written, a line on standard error.
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
        """Drop all lines that wait, and the count of lost lines."""
        self.lost = 0  # lost lines that were not reported yet
        self._why = _NOT_READ  # why the last line was lost
        self._has_failed = False  # the last write failed
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._is_torn = False  # the first line of the queue is partly written
        self._is_writing = False

    @property
    def reports_itself(self) -> bool:
        return self._report_elsewhere is None

    @property
    def is_behind(self) -> bool:
        """Whether retry() has lines to write or to report."""
        return bool(self._queue or self.lost)

    def emit(self, record: logging.LogRecord) -> None:
        self._offer(self._line_of(record))
        if self.lost:
            self._report_if_due()

    def _line_of(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except BaseException as error:  # arguments that do not fit the message must not print a traceback
            text = self._format_broken(record, unformattable(record, error))
        return (text + "\n").encode("utf-8", "backslashreplace")

    def _format_broken(self, record: logging.LogRecord, text: str) -> str:
        try:
            return self.format(logging.LogRecord(record.name, record.levelno, record.pathname, 0, text, (), None))
        except BaseException:  # the formatter itself fails
            return text

    def _offer(self, line: bytes) -> None:
        if self._queued_bytes < QUEUE_BYTES:
            self._queue.append(line)
            self._queued_bytes += len(line)
        else:
            self.lost += 1
        self._write()

    def _write(self) -> None:
        """Write the queue, as much as the output accepts now."""
        if self._is_writing:  # called from a signal handler that interrupts this loop; the loop will write the line
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
        """Drop the queue, except the rest of a partly written line; otherwise the next line would continue it."""
        rest = self._queue[0] if self._is_torn else None
        self.lost += len(self._queue) - (rest is not None)
        self._queue.clear()
        if rest is not None:
            self._queue.append(rest)
        self._queued_bytes = len(rest or b"")

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
        if self.lost:  # the report was lost too; it is not counted
            self.lost = lost
            if not self.output.is_same_file(_STANDARD_ERROR):
                _write_to_standard_error(text)

    def retry(self) -> None:
        """Write the queue; report lost lines if a report is due."""
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
        """Replace the output, and close the previous one. The queue is written to the new output."""
        self.acquire()
        try:
            self._leave_output()
            before, self.output = self.output, output
            before.close()
        finally:
            self.release()

    def inherit(self, before: LogHandler) -> None:
        """Take over the queue and the lost lines of a handler that this one replaces."""
        before.acquire()
        try:
            before._leave_output()
            self._queue, self._queued_bytes = before._queue, before._queued_bytes
            self.lost, self._why = before.lost, before._why
            before.forget()
        finally:
            before.release()

    def _leave_output(self) -> None:
        """Write what the output accepts; drop the rest of a partly written line: it belongs to this output only."""
        self._write()
        if self._is_torn:
            self._queued_bytes -= len(self._queue.popleft())
            self._is_torn = False
            self.lost += 1

    def flush(self) -> None:
        """Write the queue, and block for at most FLUSH_S; all logs that are flushed together share this time."""
        self.acquire()
        try:
            self._is_writing = False  # true inside a signal handler that interrupts _write(), and exits
            until = _flush_deadline(time.monotonic())
            self._write()
            while self._queue and not self._has_failed and (left := until - time.monotonic()) > 0:
                self.output.wait(left)
                self._write()
        finally:
            self.release()

    def close(self) -> None:
        """Write what the output accepts now, drop the rest, and report lost lines.

        The output stays open: when an application configures logging, logging closes all handlers of the process, and
        these are still in use. retire() closes the output.
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
        """Close the handler and its output."""
        self.close()
        self.output.close()
        self.output = Output(-1, _refuse)


_flushes_until = -FLUSH_S


def _flush_deadline(now: float) -> float:
    """Return the deadline of a flush; logs that are flushed one after the other share it."""
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
    """Drop the queues in a forked child: the parent writes them."""
    for handler in _handlers:
        handler.forget()


def finish() -> None:
    """Flush all logs, for at most FLUSH_S, and shut logging down; called when the process exits."""
    for handler in sorted(_handlers, key=lambda each: each.reports_itself):  # the others report to these
        handler.flush()
        handler.close()
    logging.shutdown()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(finish)
