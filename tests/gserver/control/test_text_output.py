"""What gserverctl prints for people."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gserver.control.text_output import (
    bytes_text,
    connection_table,
    details,
    duration,
    listener_table,
    profile_summary,
    rate,
    setting_lines,
    status_text,
    table,
    value_text,
    worker_table,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 ms"),
        (0.000_014, "0.014 ms"),
        (0.003, "3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (4.24, "4.24 s"),
        (99.9, "99.9 s"),
        (99.96, "1 min 40 s"),
        (599.4, "9 min 59 s"),
        (599.6, "10 min"),
        (7_000, "117 min"),
        (7_200, "2 h 0 min"),
        (18_600, "5 h 10 min"),
        (172_770, "2 d 0 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@settings(max_examples=300)
@given(st.floats(0.0, 1e6) | st.floats(0.0, 1e9))
def test_a_duration_is_short_and_near(seconds: float) -> None:
    text = duration(seconds)
    units = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    value = sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.e-]+) (\w+)", text))

    assert abs(value - seconds) <= 0.051 * seconds + 1e-9
    assert seconds < 1e-6 or seconds > 1e8 or len(text) <= 12


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1229, "1.2 KiB"),
        (1023 * 1024, "0.999 MiB"),
        (34 << 20, "34 MiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes(size: int | None, text: str) -> None:
    assert bytes_text(size) == text


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=5))
def test_columns_are_aligned_and_nothing_controls_the_terminal(rows: list[tuple[str, str]]) -> None:
    text = table(rows, numbers=(1,))

    assert text.count("\n") == len(rows)
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table([["A", "N"], ["xyz", "1"], ["b", "100"]], numbers=(1,)) == "A      N\nxyz    1\nb    100\n"


WORKER: dict[str, Any] = {
    "pid": 4711,
    "state": "serving",
    "stuck": False,
    "up_s": 75.0,
    "open": 12_000,
    "messages": 5,
    "errors": 0,
    "lag_s": 0.002,
    "heartbeat_age_s": 0.5,
    "messages_per_s": 7.25,
    "rss_bytes": 33 << 20,
    "open_files": 12_010,
}


def test_a_stuck_worker_is_shown_with_the_age_of_its_heartbeat() -> None:
    stuck = {**WORKER, "pid": 4712, "stuck": True, "heartbeat_age_s": 31.0, "rss_bytes": None, "open_files": None}
    starting = {**WORKER, "pid": 7, "state": "booting", "heartbeat_age_s": None}

    assert worker_table([WORKER, stuck, starting]) == (
        " PID  STATE    UP    CONNECTIONS  MESSAGES/S  MESSAGES  ERRORS  LAG   HEARTBEAT   MEMORY   FILES\n"
        "4711  serving  75 s       12,000         7.2         5       0  2 ms  500 ms ago  33 MiB  12,010\n"
        "4712  stuck    75 s       12,000         7.2         5       0  2 ms  31 s ago    -            -\n"
        "   7  booting  75 s       12,000         7.2         5       0  2 ms  -           33 MiB  12,010\n"
    )


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0.0, "0"), (0.04, "0.0"), (0.3, "0.3"), (9.94, "9.9"), (9.96, "10"), (1234.5, "1,234"), (2e6, "2,000,000")],
)
def test_rates(per_second: float, text: str) -> None:
    assert rate(per_second) == text


def test_the_summary_of_a_profile() -> None:
    profile = {"samples": 990, "idle": 400, "seconds": 10.0, "cpu_s": 5.5}

    assert profile_summary(profile) == (
        "990 samples in 10 s, 590 of them while the worker ran; CPU time of its main thread: 5.5 s"
    )


def test_settings_and_their_values() -> None:
    rows = [{"name": "workers", "value": "2", "is_live": False}, {"name": "loglevel", "value": "info", "is_live": True}]

    assert setting_lines(rows) == "workers = 2\nloglevel = info  (live)\n"
    assert value_text(["10.0.0.0/8", "::1"]) == "10.0.0.0/8 ::1"
    assert value_text(3) == "3"


LISTENER: dict[str, Any] = {
    "name": "admin",
    "app": "shop:app",
    "tls": False,
    "bind": "127.0.0.1:7000",
    "address": "127.0.0.1:7000",
    "sockets": 1,
    "backlog": 2048,
    "queued": 0,
}


def test_listeners() -> None:
    rows = [
        {**LISTENER, "name": "devices", "tls": True, "sockets": 2, "queued": 3},
        {**LISTENER, "address": "unix:/run/a", "queued": None},
    ]

    assert listener_table(rows) == (
        "NAME     ADDRESS         APP       TLS  SOCKETS  QUEUED  BACKLOG\n"
        "devices  127.0.0.1:7000  shop:app  yes        2       3     2048\n"
        "admin    unix:/run/a     shop:app  no         1       -     2048\n"
    )


CONNECTION: dict[str, Any] = {
    "id": "4711-1",
    "peer": "10.0.0.1:5000",
    "proxy": None,
    "listener": "0.0.0.0:7000",
    "tls": None,
    "state": "idle",
    "age_s": 60.0,
    "idle_s": 1.5,
    "messages": 1234,
    "received_bytes": 2048,
    "sent_bytes": 0,
    "outbox_bytes": 0,
    "handling_s": None,
    "handler": None,
}


def test_connections() -> None:
    busy = {**CONNECTION, "proxy": "10.9.9.9:80", "tls": "TLSv1.3", "outbox_bytes": 99, "state": "handling"}
    busy |= {"handler": "fetch (app.py:17)", "handling_s": 2.0}

    one, other = [re.sub(" {2,}", "|", line) for line in connection_table([CONNECTION, busy]).splitlines()[1:]]
    assert one == "4711-1|10.0.0.1:5000|0.0.0.0:7000|-|idle|60 s|1.5 s|1,234|2 KiB|0 B|-|-"
    assert other.startswith("4711-1|10.0.0.1:5000 by 10.9.9.9:80|0.0.0.0:7000|TLSv1.3|handling|60 s|1.5 s|")
    assert other.endswith("|1,234|2 KiB|0 B|99 B|fetch (app.py:17) for 2 s")


def test_details_have_a_line_for_each_field_and_each_item() -> None:
    fields = {"id": "1-1", "age_s": 1.0, "sent_bytes": 10, "stack": ["a", "b"], "kernel": {"rtt_s": 0.1}, "tls": None}

    assert details(fields) == (
        "id            1-1\n"
        "age_s         1 s\n"
        "sent_bytes    10 B\n"
        "stack         a\n"
        "              b\n"
        "kernel.rtt_s  100 ms\n"
        "tls           -\n"
    )


def test_a_name_from_a_peer_does_not_control_the_terminal() -> None:
    assert details({"server_name": "\x1b[2J\u202eab\n"}) == "server_name  \\x1b[2J\\u202eab\\n\n"


STATUS: dict[str, Any] = {
    "name": "app:app",
    "version": "1.0",
    "pid": 4710,
    "uptime_s": 3.0,
    "state": "serving",
    "ready": True,
    "not_ready_because": None,
    "listeners": ["127.0.0.1:7000"],
    "workers": {"target": 2, "booting": 0, "ready": 0, "serving": 2, "draining": 0, "stuck": 0},
    "connections": {"open": 2, "accepted": 5, "closed": {"peer_eof": 2, "administrative": 1}},
    "messages": 9,
    "messages_per_s": 1234.5,
    "errors": 0,
    "lag_s": 0.0,
    "certificate_not_after": None,
    "restarts": {"signal": 2, "timeout": 1},
    "reloads": {"done": 0, "failed": 0, "last": None},
    "upgrade": None,
    "limits": [{"name": "worker_connections", "used": 2, "limit": 10_000, "worker": 4711}],
}


def test_the_status_of_a_server() -> None:
    assert status_text(STATUS, 0.0) == (
        "server       app:app, gserver 1.0, pid 4710, up 3 s\n"
        "state        serving\n"
        "ready        yes\n"
        "listening    127.0.0.1:7000\n"
        "workers      2 of 2 serve\n"
        "connections  2 open, 5 accepted\n"
        "closed       peer_eof 2, administrative 1\n"
        "messages     1,234 a second, 9 in all\n"
        "errors       0\n"
        "lag          0 ms\n"
        "restarts     signal 2, timeout 1\n"
        "reloads      none\n"
        "limit        worker_connections: 2 of 10,000 (0%, in worker 4711)\n"
    )


@pytest.mark.parametrize(
    ("not_after", "text"),
    [
        (1_800_000_000, "certificate  valid until 2027-01-15, for 2 d 0 h"),
        (1_799_827_199, "certificate  expired on 2027-01-13"),
    ],
)
def test_the_end_of_a_certificate_is_in_the_status(not_after: int, text: str) -> None:
    assert text in status_text({**STATUS, "certificate_not_after": not_after}, 1_799_827_200.0)


def test_the_status_of_a_server_with_problems() -> None:
    last = {"at": 100.0, "seconds": 1.0, "outcome": "failed", "kind": "new workers", "reason": "SyntaxError"}
    text = status_text(
        {
            **STATUS,
            "ready": False,
            "not_ready_because": "no worker serves",
            "listeners": [],
            "workers": {"target": 4, "booting": 1, "ready": 1, "serving": 1, "draining": 2, "stuck": 1},
            "reloads": {"done": 1, "failed": 1, "last": last},
        },
        160.0,
    )

    assert "ready        no: no worker serves\n" in text
    assert "listening    -\n" in text
    assert "workers      1 of 4 serve, 2 starting, 2 draining, 1 stuck\n" in text
    assert "reloads      1 done, 1 failed; the last, 60 s ago, failed: SyntaxError\n" in text
    done = {**STATUS["reloads"], "done": 1, "last": {**last, "outcome": "done"}}
    assert "the last, 0 ms ago, done in 1 s (new workers)\n" in status_text({**STATUS, "reloads": done}, 90.0)
