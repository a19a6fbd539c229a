"""The page for people: one HTML page without scripts and other files, made anew for each request.

It shows no address of a peer, and has nothing that changes the server. The template is a string.Template, because the
page only fills in values, which are all escaped here; so the server needs no template engine.
"""

from __future__ import annotations

import html
import importlib.resources
import string
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import gserver
from gserver.counters import SAMPLED_ONE_OF
from gserver.metrics.readings import Histogram, Readings, WorkerReadings

__all__ = ["as_page"]

_TEMPLATE = string.Template(
    importlib.resources.files("gserver.metrics").joinpath("status_page.html").read_text("utf-8")
)
#: The settings in the table of limits. 0 means no limit in all of them.
_LIMITS = (
    "worker_connections",
    "max_connections",
    "max_connections_per_ip",
    "max_connections_per_network",
    "max_accept_rate",
    "max_message_rate",
    "max_byte_rate",
    "max_message_size",
    "backlog",
    "timeout",
)


def as_page(readings: Readings) -> str:
    """Return the page as HTML."""
    totals, verdict = readings.totals, readings.readiness
    return _TEMPLATE.substitute(
        verdict="Ready" if verdict.is_good else "Not ready",
        color="good" if verdict.is_good else "bad",
        reason=_escaped(verdict.reason),
        liveness=_escaped("Alive" if readings.liveness.is_good else f"Not alive: {readings.liveness.reason}"),
        version=_escaped(gserver.__version__),
        started=_escaped(_instant(readings.started_at)),
        uptime=_escaped(_span(readings.read_at.timestamp() - readings.started_at)),
        read_at=_escaped(f"{readings.read_at:%H:%M:%S} UTC"),
        serving=_number(readings.serving),
        target=_number(readings.target),
        open=_number(sum(worker.open for worker in readings.workers)),
        rate=_number(sum(worker.message_rate for worker in readings.workers)),
        lag=_escaped(_short(max((worker.lag_s for worker in readings.workers), default=0.0))),
        workers="\n".join(map(_worker_row, readings.workers)),
        totals=_rows(
            [
                ("Connections accepted", _number(totals.accepted)),
                ("Messages", _number(totals.messages)),
                ("Errors", _number(totals.errors)),
                ("Bytes received", _number(readings.received_bytes)),
                ("Bytes sent", _number(readings.sent_bytes)),
            ]
        ),
        closed=_rows((reason.value, _number(count)) for reason, count in totals.closed.most_common())
        or _rows([("none yet", "")]),
        lags=_bars(readings.lags, _short),
        sampled=SAMPLED_ONE_OF,
        handlers=_rows(_quantiles(readings.handlers)),
        handler_bars=_bars(readings.handlers, _fine),
        reloads=_rows(_reloads(readings)),
        limits=_rows((name, _limit(readings, name)) for name in _LIMITS),
    )


def _worker_row(worker: WorkerReadings) -> str:
    state, color = _state(worker)
    cells = [
        ("number", str(worker.slot)),
        ("number extra", str(worker.pid or "-")),
        (color, state),
        ("number", _number(worker.open)),
        ("number", _number(worker.message_rate)),
        ("number", _short(worker.lag_s)),
        ("number extra", _short(worker.lag_max_s)),
        ("number extra", "-" if worker.heartbeat_age_s is None else f"{worker.heartbeat_age_s:.1f} s ago"),
        ("number extra", _number(worker.messages)),
        ("extra", "-" if worker.not_after is None else f"{datetime.fromtimestamp(worker.not_after, UTC):%Y-%m-%d}"),
    ]
    return "<tr>" + "".join(f'<td class="{kind}">{_escaped(text)}</td>' for kind, text in cells) + "</tr>"


def _state(worker: WorkerReadings) -> tuple[str, str]:
    """The state of a worker as a word, and its color."""
    if worker.is_stuck:
        return "stuck", "bad"
    if worker.is_serving:
        return "serves", "good"
    return ("starts", "") if worker.heartbeat_age_s is None else ("waits or drains", "")


def _reloads(readings: Readings) -> list[tuple[str, str]]:
    last = "none yet"
    if readings.last_reload_at:
        ago = _span(readings.read_at.timestamp() - readings.last_reload_at)
        last = f"{'failed' if readings.last_reload_failed else 'succeeded'}, {ago} ago"
    return [
        ("Last reload", last),
        ("Reloads succeeded", _number(readings.reloads_succeeded)),
        ("Reloads failed", _number(readings.reloads_failed)),
        *((f"Workers: {cause.value}", _number(count)) for cause, count in readings.restarts.items()),
    ]


def _quantiles(histogram: Histogram) -> list[tuple[str, str]]:
    found = [(name, histogram.quantile(share)) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))]
    return [(name, "none yet" if value is None else f"about {_fine(value)}") for name, value in found]


def _bars(histogram: Histogram, text: Callable[[float], str]) -> str:
    """One row per bucket, with a bar as long as its share.

    The empty ones after the last that is not empty are left out, and all but one of those before the first.
    """
    used = [index for index, count in enumerate(histogram.counts) if count]
    largest, first = max(histogram.counts), max(0, used[0] - 1) if used else 0
    rows = []
    for bound, count in list(zip(histogram.bounds_s, histogram.counts, strict=True))[
        first : used[-1] + 1 if used else 1
    ]:
        below = f"below {text(bound)}" if bound < float("inf") else f"{text(histogram.bounds_s[-2])} or more"
        width = 100 * count / largest if largest else 0
        bar = f'<i style="width:{width:.1f}%"></i>' if count else ""
        rows.append(
            f'<tr><td>{_escaped(below)}</td><td class="bar">{bar}</td><td class="number">{_number(count)}</td></tr>'
        )
    return "\n".join(rows)


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(
        f'<tr><td>{_escaped(name)}</td><td class="number">{_escaped(value)}</td></tr>' for name, value in rows
    )


def _limit(readings: Readings, name: str) -> str:
    value = getattr(readings.settings, name)
    return _number(value) if value else "no limit"


def _escaped(text: str) -> str:
    return html.escape(text)


def _number(value: float) -> str:
    return f"{round(value):,}"


def _instant(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (int(seconds), "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def _short(seconds: float) -> str:
    """A short time with its unit."""
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1000:.1f} ms"
        if seconds < 0.1
        else f"{seconds * 1000:.0f} ms"
    )


def _fine(seconds: float) -> str:
    """The same, with microseconds."""
    return _short(seconds) if seconds >= 0.001 else f"{seconds * 1e6:.0f} us"
