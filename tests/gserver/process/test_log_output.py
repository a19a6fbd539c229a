"""Writing to each kind of descriptor without blocking."""

from __future__ import annotations

import errno
import os
import pty
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.process.log_output import Output

LINE = b"x" * 99 + b"\n"
Ends = tuple[int, int]


def make_pipe() -> Ends:
    return os.pipe()


def make_stream() -> Ends:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def make_datagrams() -> Ends:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.detach(), other.detach()


def make_terminal() -> Ends:
    return pty.openpty()


KINDS = [make_pipe, make_stream, make_datagrams, make_terminal]


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__[5:])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A reading end and a writing end."""
    both = request.param()
    yield both
    for end in both:
        os.close(end)


@pytest.fixture(autouse=True)
def _alarm() -> Iterator[None]:
    """A write that blocks fails the test."""

    def fail(number: int, frame: object) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write_until_full(output: Output) -> int:
    written = 0
    while True:
        try:
            written += output.write(LINE)
        except BlockingIOError:
            return written


@pytest.mark.parametrize("may_hold", [True, False])
def test_a_reader_that_does_not_read_does_not_block_the_writer(ends: Ends, may_hold: bool) -> None:
    reader, writer = ends
    if os.isatty(writer) and not may_hold:
        pytest.skip("a terminal polls as writable when it has room for one byte")
    output = Output.of_standard(writer, may_hold=may_hold)
    written = write_until_full(output)
    assert written > 0
    while written > 0 and select.select([reader], [], [], 0)[0]:
        written -= len(os.read(reader, 65536))

    assert output.write(LINE) > 0
    output.close()


def test_processes_that_share_the_descriptor_find_it_unchanged(ends: Ends) -> None:
    _, writer = ends
    output = Output.of_standard(writer)
    write_until_full(output)

    assert os.get_blocking(writer)
    output.close()
    os.fstat(writer)


def test_several_processes_fill_a_pipe_and_none_blocks() -> None:
    """Each has its own open file, as workers that were forked from an arbiter."""
    reader, writer = os.pipe()
    output = Output.of_standard(writer)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            signal.alarm(15)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            full = 0
            while full < 2000:
                try:
                    output.write(LINE)
                except BlockingIOError:
                    full += 1
            os._exit(0)
        children.append(pid)
    while any(os.waitpid(pid, os.WNOHANG) == (0, 0) for pid in children[:1]):
        if select.select([reader], [], [], 0.01)[0]:
            assert not os.read(reader, 4096).replace(LINE, b"").strip(b"x\n")
    statuses = [os.waitpid(pid, 0)[1] for pid in children[1:]]
    output.close()
    os.close(reader)
    os.close(writer)

    assert statuses == [0, 0, 0]


@pytest.mark.parametrize("may_hold", [True, False])
def test_a_reader_that_is_gone_is_an_error(may_hold: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = Output.of_standard(writer, may_hold=may_hold)

    with pytest.raises(BrokenPipeError):
        output.write(LINE)
    output.close()
    os.close(writer)


def test_nothing_is_held_open_where_nothing_may_be() -> None:
    """The reader of the output of the command that started a daemon gets an end of file."""
    reader, writer = os.pipe()
    output = Output.of_standard(writer, may_hold=False)
    output.write(LINE)
    os.close(writer)

    assert os.read(reader, 1000) == LINE
    assert os.read(reader, 1000) == b""
    os.close(reader)


@pytest.mark.parametrize("may_hold", [True, False])
def test_a_file_that_the_shell_has_opened_goes_on_where_it_stands(tmp_path: Path, may_hold: bool) -> None:
    """Without O_APPEND, a second opening would begin at the first byte."""
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"before\n")
    output = Output.of_standard(descriptor, may_hold=may_hold)
    output.write(b"log\n")
    os.write(descriptor, b"after\n")
    output.close()
    os.close(descriptor)

    assert (tmp_path / "file").read_text() == "before\nlog\nafter\n"


def test_a_redirected_standard_stream_goes_to_the_log(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    output = Output.of_standard(writer, may_hold=False)
    nothing = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.dup2(nothing, writer)
    output.write(LINE)
    for descriptor in (nothing, reader, writer):
        os.close(descriptor)

    assert (tmp_path / "file").read_bytes() == LINE


def test_a_descriptor_that_is_closed_is_an_error_of_the_write() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    output = Output.of_standard(writer)

    with pytest.raises(OSError, match="descriptor") as caught:
        output.write(LINE)
    assert caught.value.errno == errno.EBADF


def test_a_path_is_appended_to_and_made(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        output = Output.of_path(str(path))
        output.write(LINE)
        output.close()

    assert path.read_bytes() == 2 * LINE


def test_a_file_that_is_cut_to_nothing_goes_on_at_its_beginning(tmp_path: Path) -> None:
    """As with copytruncate of logrotate."""
    path = tmp_path / "log"
    output = Output.of_path(str(path))
    output.write(LINE)
    os.truncate(path, 0)
    output.write(b"new\n")
    output.close()

    assert path.read_bytes() == b"new\n"


def test_a_fifo_without_a_reader_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(OSError, match="No such device"):
        Output.of_path(str(tmp_path / "fifo"))


def test_a_fifo_that_is_not_read_does_not_block_the_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    output = Output.of_path(str(tmp_path / "fifo"))

    assert write_until_full(output) > 0
    output.close()
    os.close(reader)


@pytest.mark.parametrize("open_output", [Output.of_standard, lambda fd: Output.of_path(f"/proc/self/fd/{fd}")])
def test_code_that_prints_may_share_it_and_block(tmp_path: Path, open_output: Callable[[int], Output]) -> None:
    reader, writer = os.pipe()
    standard = os.open(os.devnull, os.O_WRONLY)
    output = open_output(writer)
    output.put_under(standard)
    os.write(standard, LINE)

    assert os.read(reader, 1000) == LINE
    assert os.get_blocking(standard)
    output.close()
    for descriptor in (reader, writer, standard):
        os.close(descriptor)


def test_full_devices_are_an_error_and_no_block() -> None:
    output = Output.of_path("/dev/full")

    with pytest.raises(OSError, match="No space left"):
        output.write(LINE)
    output.close()
