"""Live samples of a server for Locust's web UI; test_web_ui.py tests the page itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from loadtests.locust_integration import live_samples as live
from loadtests.locust_integration.live_samples import Live, row_of, sampler_options
from tests.helpers.waiting import wait_until


def sample(at_s: float, cpu_s: float = 0.0, **more: Any) -> dict[str, Any]:
    process = {"pid": 7, "started_s": 1.0, "rss_bytes": 3 * 2**20, "descriptors": 12}
    return {"time_s": at_s, "processes": [{**process, "cpu_user_s": cpu_s, "cpu_system_s": 0.0}], **more}


def counted(messages: int, sockets: int) -> dict[str, Any]:
    return {"server": {"messages": messages, "open": sockets, "lag_s": 0.004}}


def test_a_row_has_the_figures_between_two_samples() -> None:
    assert row_of(sample(10), sample(12, cpu_s=0.5), start_s=8) == {"t": 4, "cpu": 25, "rss": 3, "descriptors": 12}


def test_gservers_own_counters_replace_descriptors() -> None:
    before, after = sample(10, **counted(100, 5)), sample(12, **counted(300, 6), kernel={"accept_queue": 3})

    row = row_of(before, after, start_s=10)

    assert row == {"t": 2, "cpu": 0, "rss": 3, "sockets": 6, "messages": 100, "lag": 4, "queue": 3}


def test_a_sample_without_gservers_counters_has_descriptors() -> None:
    assert "descriptors" in row_of(sample(10), sample(11, **counted(5, 5)), 10)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pid": "x"}, "--server-pid is 'x', and there is no such process"),
        ({"pid": str(2**31 - 2)}, "no such process"),
        ({"stats": "/s"}, "--server-stats needs --server-pid"),
        ({"pid": "1", "sampler": "a:1"}, "--server-sampler goes without"),
    ],
)
def test_wrong_options_are_named(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sampler_options(**{"pid": "", "sampler": "", "stats": "", "host": "", **given})


def test_the_sampler_gets_the_tested_port() -> None:
    pid = str(os.getpid())
    host = "tcp://127.0.0.1:3001"

    assert sampler_options("", "", "", host) == []
    assert sampler_options("", "a:1", "", host) == ["--connect", "a:1"]
    assert sampler_options(pid, "", "/s", host) == [
        "--pid",
        pid,
        "--host",
        "127.0.0.1",
        "--port",
        "3001",
        "--stats-socket",
        "/s",
    ]


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_rows_come_until_the_server_ends_and_then_the_reason(
    server: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", 0.05)
    shown = Live(["--pid", str(server.pid)])

    wait_until(lambda: len(shown.rows) >= 3, 20)
    assert shown.newer()["ended"] == ""
    assert [row["t"] for row in shown.rows] == sorted({row["t"] for row in shown.rows})

    middle = shown.rows[1]["t"]
    assert all(row["t"] > middle for row in shown.newer(since=middle)["rows"])

    server.kill()
    server.wait()
    wait_until(lambda: bool(shown.ended), 20)
    assert shown.newer() == {"rows": list(shown.rows), "ended": f"process {server.pid} has ended"}
    shown.close()


def test_closing_ends_the_sampler(server: subprocess.Popen[bytes]) -> None:
    shown = Live(["--pid", str(server.pid)])
    sampler = psutil.Process(shown._process.pid)

    shown.close()

    assert not sampler.is_running()


def test_a_sampler_that_cannot_start_gives_the_reason() -> None:
    shown = Live(["--pid", str(2**31 - 2)])

    wait_until(lambda: bool(shown.ended), 20)
    assert shown.ended == f"there is no process {2**31 - 2}"
    shown.close()
