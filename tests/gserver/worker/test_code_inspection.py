"""Stacks and profiles as answers of a worker: their parts, their summary, and what ends them early."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from gserver.worker import code_inspection
from gserver.worker.code_inspection import ROW_CHARACTERS, CodeInspection
from gserver.worker.inspection import MAX_ROW_BYTES, Refused


@pytest.fixture
def inspection() -> CodeInspection:
    return CodeInspection(list, [SimpleNamespace()])


def is_profiling() -> bool:
    return signal.getsignal(signal.SIGPROF) is not signal.SIG_DFL


def rows_of(answer: Iterator[Any]) -> list[Any]:
    return [row for row in answer if row is not None]


def test_without_connections_the_stacks_are_their_totals(inspection: CodeInspection) -> None:
    assert rows_of(inspection.subjects["stacks"]({})) == ["0 handlers wait, of 0 connections\n"]


def test_a_long_text_is_cut_into_rows_that_fit_in_any_language(
    inspection: CodeInspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\N{GRINNING FACE}" * 5000

    def pieces(connections: Iterable[Any]) -> Iterator[str]:
        yield text

    monkeypatch.setattr(code_inspection, "stack_pieces", pieces)
    rows = rows_of(inspection.subjects["stacks"]({}))

    assert "".join(rows) == text
    assert max(len(json.dumps(row)) for row in rows) <= MAX_ROW_BYTES
    assert {len(row) for row in rows[:-1]} == {ROW_CHARACTERS}


def test_a_profile_ends_with_its_summary(inspection: CodeInspection) -> None:
    def busy() -> None:
        while not is_over:
            sum(range(10_000))
            gevent.sleep(0)

    is_over: list[bool] = []
    greenlet = gevent.spawn(busy)
    rows = rows_of(inspection.subjects["profile"]({"seconds": 0.3}))
    is_over.append(True)
    greenlet.join()
    summary = rows.pop()

    assert summary.keys() == {"seconds", "interval_s", "cpu_s", "samples", "idle", "overflowed"}
    assert summary["samples"] > 0
    assert any("busy" in row for row in rows)
    assert all(row.endswith("\n") for row in rows)
    assert not is_profiling()


def test_it_gives_signs_of_life_while_it_samples(inspection: CodeInspection) -> None:
    answer = inspection.subjects["profile"]({"seconds": 300.0})
    assert next(answer) is None
    assert next(answer) is None
    assert is_profiling()
    del answer  # what the client of an answer that is forgotten leaves

    assert not is_profiling()


def test_two_at_a_time_are_refused(inspection: CodeInspection) -> None:
    first = inspection.subjects["profile"]({"seconds": 300.0})
    next(first)
    with pytest.raises(Refused, match=r"^a profile is running already$"):
        next(inspection.subjects["profile"]({"seconds": 1.0}))
    assert is_profiling()
    first.close()  # type: ignore[attr-defined]
    next(again := inspection.subjects["profile"]({"seconds": 1.0}))
    again.close()  # type: ignore[attr-defined]


def test_an_application_that_uses_the_signal_itself_is_refused(inspection: CodeInspection) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    try:
        with pytest.raises(Refused, match="the application handles SIGPROF itself"):
            next(inspection.subjects["profile"]({"seconds": 1.0}))
    finally:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


def test_a_worker_that_stops_ends_it(inspection: CodeInspection) -> None:
    greenlet = gevent.spawn(rows_of, inspection.subjects["profile"]({"seconds": 300.0}))
    gevent.sleep(0.05)
    assert is_profiling()
    greenlet.kill()

    assert not is_profiling()
