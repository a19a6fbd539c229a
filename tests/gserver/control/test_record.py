"""gserverctl record without a server: the file, and the rows that become its lines."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.control import record as record_module
from gserver.control.client import ControlClient, Unreachable
from gserver.control.record import Output, record
from gserver.control.text_output import record_summary
from gserver.errors import ConfigError
from gserver.transcript import data_rows, event_row, header_row, read_transcript

HEADER = header_row("7-1", is_masked=True)
RESULT = {"ended": "stopped", "connections": 1, "skipped": 0, "missing": []}


class Server:
    """Answers `record` with rows, or with an exception after them."""

    path = "ctl"

    def __init__(self, *rows: dict[str, Any], failure: Exception | None = None) -> None:
        self.result = RESULT
        self._rows, self._failure = rows, failure

    def request(self, command: str, **arguments: Any) -> Iterator[Any]:
        assert command == "record"
        yield {"recording": 1}
        yield from self._rows
        if self._failure is not None:
            raise self._failure


def run(server: Any, path: Path, limit: int = 1 << 20) -> dict[str, Any]:
    served: ControlClient = server
    return record(served, Output(str(path), False), limit, connection="7-1")


def test_rows_become_lines(tmp_path: Path) -> None:
    path = tmp_path / "out"
    rows = [*data_rows(0, "7-1", "in", b"ping"), *data_rows(1, "7-1", "out", b"\xff\0")]
    result = run(Server(HEADER, *rows, event_row(2, "7-1", end="closed")), path)

    assert [event.data for event in read_transcript(path.read_bytes())["7-1"].events] == [b"ping", b"\xff\0", b""]
    assert (result["events"], result["bytes"], result["error"]) == (2, 6, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_connections_of_a_lost_worker_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    others = [header_row("8-1"), header_row("7-2"), event_row(1, "7-2", end="closed"), event_row(2.5, "7-1", eof=True)]
    run(Server(HEADER, *others, {"lost": 7, "problem": "the worker has ended"}), path)
    found = read_transcript(path.read_bytes())

    assert found["7-1"].events[-1].row == event_row(2.5, "7-1", end="lost", error="worker 7: the worker has ended")
    assert [event.row["end"] for event in found["7-2"].events] == ["closed"]
    assert found["8-1"].events == []


def test_a_server_that_ends_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(Unreachable):
        run(Server(HEADER, failure=Unreachable("the server has ended")), path)
    (event,) = read_transcript(path.read_bytes())["7-1"].events

    assert (event.row["end"], event.row["error"]) == ("lost", "the server has ended")


def test_the_limit_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(record_module, "_end", lambda path, number: ended.append(number))
    rows = [row for number in range(3) for row in data_rows(number, "7-1", "in", b"12345")]
    run(Server(HEADER, *rows), tmp_path / "out", limit=10)

    assert ended == [1]


def test_the_warning_comes_once_and_only_without_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Server(HEADER), tmp_path / "a")
    assert "secrets" not in capsys.readouterr().err
    run(Server(header_row("1-1"), header_row("1-2")), tmp_path / "b")
    assert capsys.readouterr().err.count("secrets too") == 1


def test_a_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists: choose another file, or replace it with --force"):
        Output(str(path), False)
    path.unlink()
    output = Output(str(path), False)
    path.write_text("made meanwhile")
    with pytest.raises(ConfigError, match=r"cannot write to .*: File exists"):
        output.open()

    assert path.read_text() == "made meanwhile"


@pytest.mark.parametrize("name", ["", "missing/out", "."])
def test_a_file_that_cannot_be_made(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot write to"):
        Output(name, True).open()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk() -> None:
    output = Output("/dev/full", True)
    output.open()
    with pytest.raises(ConfigError, match="cannot write to /dev/full: No space left on device"):
        output.write(HEADER)
    output.close()


def test_the_summary() -> None:
    counts = {"events": 1200, "bytes": 2048, "dropped_events": 0, "dropped_bytes": 0}
    result = {**RESULT, **counts, "error": None, "file": "out"}
    assert record_summary(result) == ["recorded 1 connection to out: 1,200 events, 2 KiB; ended: stopped"]
    result |= {
        "dropped_events": 5,
        "dropped_bytes": 10,
        "skipped": 2,
        "error": "record_mask failed: E",
        "connections": 3,
    }
    result["missing"] = [{"pid": 7, "problem": "the worker has ended"}]

    assert record_summary(result) == [
        "recorded 3 connections to out: 1,200 events, 2 KiB; ended: stopped",
        "5 events (10 B) were dropped, see the lines with dropped",
        "2 connections were not recorded: there were too many at a time",
        "record_mask failed: E",
        "worker 7 is missing: the worker has ended",
    ]
