"""The log handler that never blocks: queue, lost lines, order, forks, signals, and exit."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.process import log_handler
from gserver.process.log_handler import FLUSH_S, QUEUE_BYTES, REPORT_S, LogHandler
from gserver.process.log_output import Output


class Sink:
    """An output with a capacity, or an error, that the test sets."""

    def __init__(self) -> None:
        self.text = ""
        self.room: int | None = None  # bytes that it still accepts; None: no limit
        self.error: OSError | None = None
        self.when_written: Callable[[], None] | None = None
        self.closed = 0

    def write(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        taken = len(data) if self.room is None else min(self.room, len(data))
        if not taken:
            raise BlockingIOError
        if self.room is not None:
            self.room -= taken
        self.text += data[:taken].decode()
        if self.when_written is not None:
            called, self.when_written = self.when_written, None
            called()
        return taken

    def close(self) -> None:
        self.closed += 1

    @property
    def output(self) -> Output:
        return Output(-1, self.write, self.close)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(log_handler.time, "monotonic", lambda: self.now)


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def handler(sink: Sink, reports: list[str]) -> Iterator[LogHandler]:
    """A handler that reports lost lines in another log."""
    handler = LogHandler("access log", sink.output, report=reports.append)
    yield handler
    sink.error, sink.room = None, None
    handler.retire()


def log(handler: logging.Handler, *texts: str) -> None:
    for text in texts:
        handler.handle(logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "name": "a"}))


def test_a_line_is_written_at_once(handler: LogHandler, sink: Sink) -> None:
    log(handler, "one", "two")

    assert sink.text == "one\ntwo\n"
    assert not handler.is_behind


def test_lines_that_wait_are_written_with_the_next_line_in_order(
    handler: LogHandler, sink: Sink, reports: list[str]
) -> None:
    sink.room = 6
    log(handler, "one", "two", "three")
    assert sink.text == "one\ntw"
    sink.room = None
    log(handler, "four")

    assert sink.lines == ["one", "two", "three", "four"]
    assert reports == []


def test_retry_writes_the_queue(handler: LogHandler, sink: Sink) -> None:
    sink.room = 0
    log(handler, "one", "two")
    assert handler.is_behind
    sink.room = None
    handler.retry()

    assert sink.lines == ["one", "two"]
    assert not handler.is_behind


def test_the_queue_is_limited_and_lost_lines_are_counted(
    handler: LogHandler, sink: Sink, reports: list[str], clock: Clock
) -> None:
    sink.room = 0
    line = "x" * 999
    kept = -(-QUEUE_BYTES // 1000)
    for _ in range(kept + 7):
        log(handler, line)
    assert reports == ["The access log lost lines: 1 (it is not read)"]
    clock.now += REPORT_S
    handler.retry()
    assert reports[1:] == ["The access log lost lines: 6 (it is not read)"]
    sink.room = None
    handler.retry()

    assert sink.lines == [line] * kept


def test_a_line_longer_than_the_queue_is_kept_whole(handler: LogHandler, sink: Sink) -> None:
    """For example, the stacks of 1,000 greenlets in one record."""
    sink.room = 100
    log(handler, "x" * 2 * QUEUE_BYTES)
    sink.room = None
    handler.retry()

    assert sink.lines == ["x" * 2 * QUEUE_BYTES]


def test_lines_lost_to_a_full_disk_are_reported_once_in_a_period(
    handler: LogHandler, sink: Sink, reports: list[str], clock: Clock
) -> None:
    sink.error = FULL_DISK
    log(handler, *"abcdefgh")
    assert reports == ["The access log lost lines: 1 (No space left on device)"]
    clock.now += REPORT_S
    log(handler, "i")
    assert reports[1:] == ["The access log lost lines: 8 (No space left on device)"]
    sink.error = None
    log(handler, "again")

    assert sink.lines == ["again"]


def test_a_line_that_was_cut_by_a_full_disk_is_completed_when_there_is_room(handler: LogHandler, sink: Sink) -> None:
    def full() -> None:
        sink.error = FULL_DISK

    sink.room, sink.when_written = 4, full
    log(handler, "the first", "the second")
    assert sink.text == "the "
    sink.error, sink.room = None, None
    log(handler, "the third")

    assert sink.lines == ["the first", "the third"]


def test_a_log_reports_its_own_losses_when_it_works_again(sink: Sink, clock: Clock) -> None:
    handler = LogHandler("error log 'errors'", sink.output)
    sink.error = FULL_DISK
    log(handler, "a", "b", "c")
    sink.error = None
    log(handler, "d")
    clock.now += REPORT_S
    handler.retry()

    assert sink.lines == ["d", "The error log 'errors' lost lines: 3 (No space left on device)"]
    assert not handler.is_behind
    handler.retire()


def test_while_a_log_cannot_report_its_own_losses_standard_error_does(
    sink: Sink, clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = LogHandler("error log 'errors'", sink.output)
    sink.error = FULL_DISK
    for _ in range(50):
        log(handler, "a")
    clock.now += REPORT_S
    log(handler, "a")

    assert capfd.readouterr().err.splitlines() == [
        "gserver: The error log 'errors' lost lines: 1 (No space left on device)",
        "gserver: The error log 'errors' lost lines: 51 (No space left on device)",
    ]
    sink.error = None
    handler.retire()
    assert sink.lines == ["The error log 'errors' lost lines: 51 (No space left on device)"]


def test_a_record_that_cannot_be_formatted_is_a_line_and_no_traceback(
    handler: LogHandler, sink: Sink, capfd: pytest.CaptureFixture[str]
) -> None:
    handler.handle(logging.makeLogRecord({"name": "theirs", "msg": "%d of %s", "args": ("x",)}))

    (line,) = sink.lines
    assert line.startswith("theirs logged a message that cannot be formatted: '%d of %s' (TypeError: ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["\udcff", "\N{SNOWMAN}", "\0", ""])
def test_every_text_can_be_written(handler: LogHandler, sink: Sink, text: str) -> None:
    log(handler, text)

    assert sink.text == text.encode("utf-8", "backslashreplace").decode() + "\n"


def test_a_signal_handler_may_log_while_a_line_is_written(handler: LogHandler, sink: Sink) -> None:
    sink.room = 2

    def interrupt() -> None:
        sink.room = None
        log(handler, "from the handler")

    sink.when_written = interrupt
    log(handler, "interrupted")

    assert sink.lines == ["interrupted", "from the handler"]


def test_a_process_that_exits_in_a_signal_handler_writes_the_queue(handler: LogHandler, sink: Sink) -> None:
    def abort() -> None:
        log(handler, "the last words")
        handler.flush()
        raise SystemExit

    sink.when_written = abort
    with pytest.raises(SystemExit):
        log(handler, "interrupted")

    assert sink.lines[-1] == "the last words"


# With real pipes, processes and files


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fill(descriptor: int) -> int:
    """Write until the pipe is full; return the number of bytes."""
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    written = 0
    try:
        while True:
            written += os.write(own, b"x" * 4096)
    except BlockingIOError:
        return written
    finally:
        os.close(own)


def test_a_flush_waits_for_a_reader_that_is_late(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filling = fill(writer)
    handler = LogHandler("error log", Output.of_standard(writer))
    log(handler, "the last words")
    pid = os.fork()
    if pid == 0:
        time.sleep(0.1)
        os.read(reader, filling)
        os._exit(0)
    handler.flush()
    os.waitpid(pid, 0)

    assert os.read(reader, 100) == b"the last words\n"
    handler.retire()


def test_flushing_several_logs_without_readers_takes_one_second_in_all(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_handler, "_flushes_until", -math.inf)
    _, writer = pipe
    fill(writer)
    handlers = [LogHandler("log", Output.of_standard(writer), report=lambda text: None) for _ in range(8)]
    for handler in handlers:
        log(handler, "unread")
    began = time.monotonic()
    for handler in handlers:
        handler.flush()
    took = time.monotonic() - began
    for handler in handlers:
        handler.retire()

    assert FLUSH_S * 0.9 < took < 5 * FLUSH_S


def test_a_flush_does_not_wait_for_a_full_disk(handler: LogHandler, sink: Sink) -> None:
    sink.error = FULL_DISK
    log(handler, "lost")
    began = time.monotonic()
    handler.flush()

    assert time.monotonic() - began < FLUSH_S / 2


def test_the_queue_at_a_fork_is_written_by_the_parent_only(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filling = fill(writer)
    handler = LogHandler("error log", Output.of_standard(writer))
    log(handler, "once")
    begun, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(begin)
        os.read(begun, 1)
        log(handler, "the child's own")
        handler.flush()
        os._exit(0)
    os.read(reader, filling)
    handler.flush()
    os.close(begin)
    os.close(begun)
    os.waitpid(pid, 0)

    assert os.read(reader, 1000) == b"once\nthe child's own\n"
    handler.retire()


def test_a_signal_between_two_lines_of_many_changes_nothing(tmp_path: Path) -> None:
    handler = LogHandler("log", Output.of_path(str(tmp_path / "log")))
    count = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal count
        count += 1
        log(handler, f"signal {count}")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    number = 0
    try:
        while count < 50:
            number += 1
            log(handler, f"line {number}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    handler.flush()
    handler.retire()
    lines = (tmp_path / "log").read_text().splitlines()

    assert [line for line in lines if line.startswith("line")] == [f"line {each}" for each in range(1, number + 1)]
    assert sorted(line for line in lines if line.startswith("sig")) == sorted(
        f"signal {n}" for n in range(1, count + 1)
    )


def test_an_application_that_configures_logging_does_not_end_the_log(handler: LogHandler, sink: Sink) -> None:
    """logging.config.dictConfig() closes all handlers of the process."""
    logging.shutdown([lambda: handler])  # type: ignore[list-item]
    log(handler, "still written")

    assert sink.lines == ["still written"]
    assert not sink.closed


def test_a_new_output_gets_the_queue(handler: LogHandler, sink: Sink) -> None:
    sink.room = 0
    log(handler, "one", "two")
    other = Sink()
    handler.use(other.output)
    log(handler, "three")

    assert other.lines == ["one", "two", "three"]
    assert (sink.closed, other.closed) == (1, 0)


def test_a_handler_writes_the_queue_of_the_one_that_it_replaces(handler: LogHandler, sink: Sink) -> None:
    sink.room = 0
    log(handler, "one", "two")
    other = Sink()
    successor = LogHandler("access log", other.output)
    successor.inherit(handler)
    handler.retire()
    log(successor, "three")

    assert (sink.lines, other.lines) == ([], ["one", "two", "three"])
    successor.retire()


def test_a_line_is_not_cut_in_two_by_a_change_of_outputs(handler: LogHandler, sink: Sink, reports: list[str]) -> None:
    sink.room = 2
    log(handler, "one", "two")
    other = Sink()
    handler.use(other.output)
    log(handler, "three")

    assert other.lines == ["two", "three"]
    assert len(reports) == 1
