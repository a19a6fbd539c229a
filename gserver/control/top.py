"""gserverctl top: a live screen of the workers and the busiest connections. Needs rich."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gserver.control import text_output
from gserver.control.client import ControlClient

__all__ = ["Screen", "show"]

# Candidates for the busiest connections: those with the most messages so far, and those with the most bytes.
CANDIDATES = 200
# From this width on, the columns are shown that one can do without.
WIDE = 100
# Lines that are neither workers nor connections: three of the summary, two headings, one between the tables, one spare.
OTHER_LINES = 7
LEAST_ROWS = 3

Row = Mapping[str, Any]


def show(
    server: ControlClient,
    interval_s: float,
    write: Callable[[str], None],
    rounds: int | None = None,
    console: Console | None = None,
) -> None:
    """Show the screen until the server ends (Unreachable) or the user interrupts it.

    Args:
        interval_s: seconds between two readings.
        write: where readings go, as text, if standard output is no terminal.
        rounds: how many readings to show; None: no end.
    """
    console = console or Console(highlight=False)
    screen = Screen()
    if not console.is_terminal:
        for _ in _readings(interval_s, rounds):
            width, height = console.size
            write(_as_text(screen.read(server, time.time(), width, height), width))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in _readings(interval_s, rounds):
            live.update(screen.read(server, time.time(), *console.size), refresh=True)


def _readings(interval_s: float, rounds: int | None) -> Any:
    """Yield for each reading, and sleep between two of them."""
    number = 0
    while True:
        yield number
        number += 1
        if number == rounds:
            return
        time.sleep(interval_s)


def _as_text(picture: Group, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, highlight=False).print(picture)
    return "".join(f"{line.rstrip()}\n" for line in [*text.getvalue().splitlines(), ""])


class Screen:
    """Reads the server, and remembers the last reading, for the rates of connections."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, int]] = {}  # by id: when, messages, bytes

    def read(self, server: ControlClient, now: float, width: int, height: int) -> Group:
        """One reading as a picture of this size. now: seconds since the epoch."""
        status = server.call("status")
        workers = server.call("workers").get("rows", [])
        found = {
            row["id"]: row
            for sort in ("messages", "bytes")
            for row in server.call("connections", sort=sort, limit=CANDIDATES).get("rows", [])
        }
        left = height - OTHER_LINES
        shown = min(len(workers), max(LEAST_ROWS, left // 2))
        return Group(
            _line(_summary(status)),
            _line(_identity(status, now)),
            "",
            _worker_table(sorted(workers, key=_urgency)[:shown], len(workers), width),
            "",
            self._connection_table(list(found.values()), now, width, max(LEAST_ROWS, left - shown)),
        )

    def _connection_table(self, rows: Sequence[Row], now: float, width: int, limit: int) -> Table | Text:
        rates = {row["id"]: self._rates(row, now) for row in rows}
        self._before = {row["id"]: (now, row["messages"], row["bytes"]) for row in rows}
        if not rows:
            return _line("no connections")
        busiest = sorted(rows, key=lambda row: rates[row["id"]], reverse=True)[:limit]
        is_wide = width >= WIDE
        has_unsent = is_wide or any(row["outbox_bytes"] for row in busiest)
        table = _table("CONNECTION", "PEER", *(["STATE"] if is_wide else []))
        unsent, age = ["UNSENT"] if has_unsent else [], ["AGE"] if is_wide else []
        for name in ("MSG/S", "BYTES/S", *unsent, "IDLE", *age):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("HANDLER" if is_wide else "STATE OR HANDLER", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in busiest:
            messages, size = rates[row["id"]]
            cells = [row["id"], _cut(row["peer"], 30 if is_wide else 21), *([row["state"]] if is_wide else [])]
            cells += [text_output.rate(messages), text_output.bytes_text(round(size))]
            if has_unsent:
                cells.append(text_output.bytes_text(row["outbox_bytes"]) if row["outbox_bytes"] else "-")
            cells += [text_output.duration(row["idle_s"])]
            cells += [text_output.duration(row["age_s"])] if is_wide else []
            cells.append(row["handler"] or ("-" if is_wide else row["state"]))
            table.add_row(*map(_plain, cells))
        return table

    def _rates(self, row: Row, now: float) -> tuple[float, float]:
        """Messages and bytes per second since the last reading; over its life for one that was not in it."""
        at, messages, size = self._before.get(row["id"], (now - row["age_s"], 0, 0))
        seconds = max(now - at, 0.001)
        return (row["messages"] - messages) / seconds, (row["bytes"] - size) / seconds


def _summary(status: Row) -> Text:
    """What matters most, in one line."""
    workers, text = status["workers"], Text()
    text.append(status["name"], style="bold")
    text.append(f"  {status['state']}, ")
    if status["ready"]:
        text.append("ready", style="green")
    else:
        text.append(f"not ready: {status['not_ready_because']}", style="bold red")
    text.append(f"  {workers['serving']}/{workers['target']} workers")
    if workers["stuck"]:
        text.append(f", {workers['stuck']} stuck", style="bold red")
    text.append(f"  {status['connections']['open']:,} connections  {text_output.rate(status['messages_per_s'])} msg/s")
    return text


def _identity(status: Row, now: float) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    return Text(
        f"{clock}  pid {status['pid']}, up {text_output.duration(status['uptime_s'])}  {status['errors']:,} errors  "
        f"lag {text_output.duration(status['lag_s'])}  {', '.join(status['listeners'])}"
    )


def _urgency(row: Row) -> tuple[bool, float]:
    """What workers are sorted by if there is no room for all: the stuck ones first, then the busiest."""
    return not row["stuck"], -row["messages_per_s"]


def _worker_table(rows: Sequence[Row], of: int, width: int) -> Table:
    left_out = of - len(rows)
    table = _table("WORKER", "STATE")
    is_wide = width >= WIDE
    for name in ("CONNECTIONS", "MSG/S", "ERRORS", "LAG", "MEMORY", "FILES", *(["UP"] if is_wide else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"{left_out} more are not shown" if left_out else "", no_wrap=True, ratio=1)
    for row in rows:
        table.add_row(
            str(row["pid"]),
            Text("stuck", style="bold red") if row["stuck"] else row["state"],
            f"{row['open']:,}",
            text_output.rate(row["messages_per_s"]),
            f"{row['errors']:,}",
            text_output.duration(row["lag_s"]),
            text_output.bytes_text(row["rss_bytes"]),
            "-" if row["open_files"] is None else f"{row['open_files']:,}",
            *([text_output.duration(row["up_s"])] if is_wide else []),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _line(text: Text | str) -> Text:
    """One line, cut at the width of the screen."""
    line = Text(text) if isinstance(text, str) else text
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _cut(text: str, size: int) -> str:
    """The end of a long text: that of an address differs."""
    return text if len(text) <= size else f"…{text[1 - size :]}"


def _plain(text: str) -> Text:
    """Without markup, and without characters that control the terminal: names come from peers and from user code."""
    return Text("".join(each if each.isprintable() else "?" for each in text))
