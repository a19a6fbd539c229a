from __future__ import annotations

import html.parser
import time

import pytest

from gserver.config.settings import Settings
from gserver.counters import Counters
from gserver.errors import CloseReason
from gserver.metrics.readings import read
from gserver.metrics.status_page import as_page
from tests.gserver.metrics.boards import add_worker, make_board

_VOID = {"meta"}


class Outline(html.parser.HTMLParser):
    """Checks that tags are closed in order; keeps the tags, their attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data + " "


def outline(workers: int = 2) -> Outline:
    return Outline(as_page(read(make_board(workers), Settings())))


def test_the_page_is_well_formed_loads_nothing_and_changes_nothing() -> None:
    page = outline()
    names = {name for _, attributes in page.tags for name in attributes}

    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "form", "button", "input", "iframe", "a"}
    assert not names & {"src", "href", "action"}
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in as_page(read(make_board(), Settings()))


def test_the_page_has_states_rates_limits_and_reloads() -> None:
    board = make_board(workers=1)
    slot = add_worker(board, 4711, opened=1234)
    slot.message_rate = 56_789.0
    Counters(slot.cells).ended(CloseReason.IDLE_TIMEOUT)
    board.slot(0).heartbeat_at -= 100.0
    board.server.reload_ended(False, time.time() - 7201.5)
    text = Outline(as_page(read(board, Settings.checked({"max_connections": 5000})))).text

    for part in ("stuck", "serves", "1,233", "56,789", "idle_timeout", "5,000", "failed, 2 h 1 s ago"):
        assert part in text


def test_a_server_without_workers_has_a_page() -> None:
    text = outline(workers=0).text

    assert "Not ready" in text
    assert "no worker serves" in text
    assert "none yet" in text


def test_values_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gserver.__version__", "<i>&")

    assert "<h1>gserver &lt;i&gt;&amp;</h1>" in as_page(read(make_board(), Settings()))


def test_the_page_has_quantiles_and_a_histogram_of_handler_times() -> None:
    board = make_board(workers=1)
    assert "p50 none yet" in " ".join(Outline(as_page(read(board, Settings()))).text.split())
    for nanoseconds in [20_000] * 98 + [3_000_000, 70_000_000_000]:
        Counters(board.slot(0).cells).handler_took(nanoseconds)
    text = " ".join(Outline(as_page(read(board, Settings()))).text.split())

    assert "one message in 61" in text
    assert "p50 about 24 us p90 about 31 us p99 about 4.1 ms" in text
    assert "below 16 us 0 below 32 us 98 below 64 us 0" in text
    assert text.count("67.11 s or more 1") == 1
