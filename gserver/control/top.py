"""gserverctl top: a live screen of the workers and the busiest connections. Needs rich."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gserver.control import text_output
from gserver.control.client import ControlClient

__all__ = ["Screen", "show"]

# Candidates for the busiest connections: those that have sent or got most so far, by bytes and by messages.
CANDIDATES = 200

Row = Mapping[str, Any]


def show(server: ControlClient, interval_s: float, console: Console | None = None, rounds: int | None = None) -> None:
    """Show the screen until the server ends (Unreachable) or the user interrupts it.

    Args:
        interval_s: seconds between two readings.
        rounds: how many readings to show; None: no end.
    """
    screen = Screen()
    console = console or Console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(screen.read(server, time.time(), console.height), refresh=True)
            rounds = None if rounds is None else rounds - 1
            if rounds == 0:
                return
            time.sleep(interval_s)


class Screen:
    """Reads the server, and remembers the last reading, for the rates."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, int]] = {}  # by id: when, messages, bytes

    def read(self, server: ControlClient, now: float, lines: int) -> Group:
        """One reading as a picture of so many lines."""
        status = server.call("status")
        workers = server.call("workers").get("rows", [])
        found = {
            row["id"]: row
            for sort in ("bytes", "messages")
            for row in server.call("connections", sort=sort, limit=CANDIDATES).get("rows", [])
        }
        left = max(3, lines - len(workers) - 9)
        return Group(
            Text(_headline(status, now), no_wrap=True, overflow="ellipsis"),
            Text(""),
            _worker_table(workers),
            Text(""),
            self._connection_table(list(found.values()), now, left),
        )

    def _connection_table(self, rows: Sequence[Row], now: float, limit: int) -> Table:
        rates = {row["id"]: self._rates(row, now) for row in rows}
        self._before = {row["id"]: (now, row["messages"], row["bytes"]) for row in rows}
        table = Table("ID", "PEER", "STATE", "AGE", "IDLE", box=None, pad_edge=False, header_style="bold")
        for name in ("MESSAGES/S", "BYTES/S", "UNSENT"):
            table.add_column(name, justify="right")
        table.add_column("HANDLER", no_wrap=True)
        for row in sorted(rows, key=lambda row: rates[row["id"]][::-1], reverse=True)[:limit]:
            messages, size = rates[row["id"]]
            table.add_row(
                row["id"],
                Text(row["peer"], no_wrap=True, overflow="ellipsis"),
                row["state"],
                text_output.duration(row["age_s"]),
                text_output.duration(row["idle_s"]),
                f"{messages:,.0f}",
                text_output.bytes_text(round(size)),
                text_output.bytes_text(row["outbox_bytes"]) if row["outbox_bytes"] else "-",
                Text(row["handler"] or "-", overflow="ellipsis"),
            )
        return table

    def _rates(self, row: Row, now: float) -> tuple[float, float]:
        """Messages and bytes per second since the last reading; over its life for one that was not in it."""
        at, messages, size = self._before.get(row["id"], (now - row["age_s"], 0, 0))
        seconds = max(now - at, 0.001)
        return (row["messages"] - messages) / seconds, (row["bytes"] - size) / seconds


def _headline(status: Row, now: float) -> str:
    ready = "ready" if status["ready"] else f"not ready: {status['not_ready_because']}"
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    return (
        f"{clock}  {status['name']} (pid {status['pid']}), up {text_output.duration(status['uptime_s'])}, "
        f"{status['state']}, {ready}: {status['connections']['open']:,} connections, "
        f"{status['messages_per_s']:,.0f} messages/s"
    )


def _worker_table(rows: Sequence[Row]) -> Table:
    table = Table("PID", "STATE", "UP", box=None, pad_edge=False, header_style="bold")
    for name in ("CONNECTIONS", "MESSAGES/S", "ERRORS", "LAG", "MEMORY", "FILES"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["pid"]),
            Text("stuck", style="bold red") if row["stuck"] else row["state"],
            text_output.duration(row["up_s"]),
            f"{row['open']:,}",
            f"{row['messages_per_s']:,.0f}",
            f"{row['errors']:,}",
            text_output.duration(row["lag_s"]),
            text_output.bytes_text(row["rss_bytes"]),
            "-" if row["open_files"] is None else f"{row['open_files']:,}",
        )
    return table
