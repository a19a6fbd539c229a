"""What a new arbiter reports to the old one; the pipe may hold anything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.arbiter.upgrade_reports import MAX_BYTES, MAX_REPORT_BYTES, MAX_TEXT, UpgradeReports, send_report

NOTHING = {
    "pid": 0,
    "is_running": True,
    "is_ready": False,
    "version": None,
    "control_socket": None,
    "failed_because": None,
}


class Pipe:
    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.reports = UpgradeReports(reader)

    def close(self) -> None:
        self.reports.close()
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_without_a_report_nothing_is_known(pipe: Pipe) -> None:
    assert pipe.reports.state() == NOTHING


def test_reports_add_up(pipe: Pipe) -> None:
    pipe.reports.pid = 7
    send_report(pipe.writer, version="1.2", control_socket="/run/a.2")
    known = {**NOTHING, "pid": 7, "version": "1.2", "control_socket": "/run/a.2"}
    assert pipe.reports.state() == known
    send_report(pipe.writer, is_ready=True)
    assert pipe.reports.state() == {**known, "is_ready": True}


def test_the_end_has_the_reported_reason_or_how_it_ended(pipe: Pipe) -> None:
    other = Pipe()
    send_report(pipe.writer, is_ready=True, failed_because="no\nworker \x1b[2J starts")
    for each in (pipe, other):
        each.reports.ended("it ended with status 1")

    assert pipe.reports.state()["failed_because"] == "no worker  [2J starts"
    assert other.reports.state()["failed_because"] == "it ended with status 1"
    assert not any(pipe.reports.state()[name] for name in ("is_running", "is_ready"))
    other.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\n",
        b"\n\n\xff\xfe\n",
        b"[]\n5\nnull\n",
        b'{"is_ready": 1, "version": [], "control_socket": {}, "failed_because": false, "is_running": false}\n',
        b"[" * 3000 + b"\n",
        b'{"is_ready": true',
    ],
)
def test_garbage_changes_nothing(pipe: Pipe, garbage: bytes) -> None:
    os.write(pipe.writer, garbage)

    assert pipe.reports.state() == NOTHING


@given(st.binary(max_size=500))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    pipe = Pipe()
    os.write(pipe.writer, data)
    json.dumps(pipe.reports.state())
    pipe.close()


def test_a_report_after_garbage_is_read(pipe: Pipe) -> None:
    os.write(pipe.writer, b"print() of a config file\n")
    send_report(pipe.writer, is_ready=True)

    assert pipe.reports.state()["is_ready"]


def test_no_more_is_read_than_the_maximum_and_nothing_blocks(pipe: Pipe) -> None:
    for _ in range(2):
        written = 0
        while written < MAX_BYTES * 2:
            try:
                written += os.write(pipe.writer, b"x" * MAX_REPORT_BYTES)
            except BlockingIOError:
                break
        send_report(pipe.writer, is_ready=True)  # there is no room: it is lost
        assert pipe.reports.state() == NOTHING


@pytest.mark.parametrize("text", ["x", "\N{GRINNING FACE}", "\udcff", "\x00"], ids=ascii)
def test_a_long_reason_is_cut_so_that_it_is_written_at_once(pipe: Pipe, text: str) -> None:
    reader, writer = os.pipe()
    send_report(writer, failed_because=text * 100_000)
    written = os.read(reader, 1 << 20)
    os.write(pipe.writer, written)
    pipe.reports.ended("")

    assert written.endswith(b"\n")
    assert len(written) <= MAX_REPORT_BYTES
    assert json.loads(written) == {"failed_because": text * MAX_TEXT}
    assert len(pipe.reports.state()["failed_because"]) == MAX_TEXT
    os.close(reader)
    os.close(writer)


def test_without_a_reader_a_report_is_lost() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    send_report(writer, is_ready=True)
    os.close(writer)


def test_closing_twice_closes_nothing_of_others(pipe: Pipe) -> None:
    pipe.reports.close()
    reader, writer = os.pipe()
    pipe.reports.close()
    assert os.fstat(reader)
    assert pipe.reports.state() == NOTHING
    os.close(reader)
    os.close(writer)
