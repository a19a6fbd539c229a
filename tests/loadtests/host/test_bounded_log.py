"""A log that does not fill the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from loadtests.host.bounded_log import KEPT_BYTES, LONGEST_BYTES, BoundedLog, last_line
from loadtests.host.subprocesses import running

KEPT, LONGEST = 100, 1000


def written(log: BoundedLog, lines: range) -> None:
    for line in lines:
        os.write(log.descriptor, b"line %d\n" % line)


def test_a_short_log_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("from before\n")
    with BoundedLog(path, LONGEST, KEPT) as log:
        written(log, range(3))

    assert path.read_text() == "from before\nline 0\nline 1\nline 2\n"


def test_of_a_long_log_the_beginning_and_the_end_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with BoundedLog(path, LONGEST, KEPT) as log:
        for start in range(0, 2000, 500):
            written(log, range(start, start + 500))
            log.cut()
            assert path.stat().st_size < LONGEST

    text, whole = path.read_text(), "".join(f"line {line}\n" for line in range(2000))
    beginning, note, end = text[:KEPT], text[KEPT:-KEPT].strip(), text[-KEPT:]
    assert whole.startswith(beginning)
    assert whole.endswith(end)
    assert note == f"... {len(whole) - 2 * KEPT:,} bytes were left out here ..."


def test_the_process_continues_after_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with BoundedLog(path, LONGEST, KEPT) as log:
        written(log, range(500))
        log.cut()
        os.write(log.descriptor, b"last words\n")

        assert last_line(path) == "last words"
    assert path.read_text().endswith("line 499\nlast words\n")


def test_a_process_that_never_stops_writing_is_bounded_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    chatter = f"print('first'); [print('x' * 99) for _ in range({3 * LONGEST_BYTES // 100})]; print('last'); input()"
    with running([sys.executable, "-uc", chatter], path, is_gated=False) as process:
        process.wait(60)  # its input is /dev/null

    text = path.read_text()
    assert len(text) < 3 * KEPT_BYTES
    assert text.startswith("first\n")
    assert "bytes were left out here" in text
    assert last_line(path).startswith("EOFError")


def test_the_last_line_of_nothing_is_empty(tmp_path: Path) -> None:
    (tmp_path / "blank").write_text("\n \n")

    assert last_line(tmp_path / "blank") == ""
    assert last_line(tmp_path / "nowhere") == ""
