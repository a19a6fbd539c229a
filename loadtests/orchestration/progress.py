"""Shows the progress of a run: a live display on a terminal, otherwise a line every five seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtests.formatting import quantity
from loadtests.results.metrics import has_enough_beyond, server_cpu
from loadtests.workloads.profiles import Profile

__all__ = ["Moment", "Progress", "render_display", "render_line"]

LINE_EVERY_S = 5.0
# About one second: the sampler takes four samples per second.
SAMPLES_SHOWN = 5
BAR_WIDTH = 40


@dataclass(frozen=True)
class Moment:
    """The state of a run to show. Percentages are of one core; None: not sampled."""

    elapsed_s: float
    phase: str
    sockets: int
    exchanges: int
    p99_ns: float
    failures: int
    server_percent: float | None = None
    generator_percent: float | None = None

    @property
    def p99(self) -> str:
        """The p99 latency of this second, with a ~ if there are too few exchanges for a reliable one."""
        mark = "" if has_enough_beyond(self.exchanges, 99) else "~"
        return mark + quantity(self.p99_ns / 1000, "us") if self.exchanges else "-"


class Progress:
    """Shows the progress on standard error, within `with`."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._began = time.monotonic()
        self._shown = -1.0  # the second of the newest line
        self._next_line = 0.0
        self._waited = (-1, -1)
        self._live: Live | None = None
        if sys.stderr.isatty():
            self._live = Live(Text("starting the swarm"), console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start(refresh=True)
        else:
            print("starting the swarm", file=sys.stderr, flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def wait(self, joined: int, expected: int) -> None:
        """Show how many workers of the swarm have joined, if that has changed. The run starts after the last call."""
        self._began = time.monotonic()
        if (joined, expected) == self._waited:
            return
        self._waited = (joined, expected)
        line = f"waiting for workers: {joined} of {expected}"
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(
        self, lines: Sequence[Mapping[str, float]], samples: Sequence[Mapping[str, Any]] = (), phase: str = ""
    ) -> None:
        """Show the newest line, unless it was shown before, with the CPU use of the newest samples."""
        elapsed_s = time.monotonic() - self._began
        if not lines or lines[-1]["second"] <= self._shown or (self._live is None and elapsed_s < self._next_line):
            return
        self._shown = lines[-1]["second"]
        self._next_line = elapsed_s + LINE_EVERY_S
        moment = _moment(elapsed_s, phase, lines[-1], samples[-SAMPLES_SHOWN:])
        if self._live is not None:
            self._live.update(render_display(self._profile, moment), refresh=True)
        else:
            print(render_line(self._profile, moment), file=sys.stderr, flush=True)


def _moment(elapsed_s: float, phase: str, line: Mapping[str, float], samples: Sequence[Mapping[str, Any]]) -> Moment:
    server = generator = None
    if len(samples) == SAMPLES_SHOWN:
        first, last = samples[0], samples[-1]
        server = server_cpu(first, last)
        if "generator" in first and "generator" in last:
            generator = server_cpu(*({**each, "processes": each["generator"]} for each in (first, last)))
    sockets, exchanges, failures = (int(line[name]) for name in ("sockets", "exchanges", "failures"))
    return Moment(elapsed_s, phase, sockets, exchanges, line["p99_ns"], failures, server, generator)


def render_line(profile: Profile, moment: Moment) -> str:
    """One line: time, phase, sockets, rate, latency, failures, and CPU use if it is sampled."""
    used = {"server": moment.server_percent, "generator": moment.generator_percent}
    cores = [f"{name} {quantity(percent, '% of a core')}" for name, percent in used.items() if percent is not None]
    return "  ".join(
        [
            f"{min(moment.elapsed_s, profile.total_s):3.0f} of {profile.total_s:.0f} s",
            f"{moment.phase:8}",
            f"{moment.sockets:,} of {profile.sockets:,} sockets",
            f"{moment.exchanges:,} exchanges/s",
            f"p99 {moment.p99}",
            f"{moment.failures:,} failures",
            *cores,
        ]
    )


def render_display(profile: Profile, moment: Moment) -> RenderableType:
    """The live display for a terminal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="dim")
    grid.add_column()
    rows: list[tuple[str, RenderableType]] = [
        ("sockets", _of(moment.sockets, profile.sockets)),
        ("exchanges", Text(f"{moment.exchanges:,} per second, p99 {moment.p99}")),
        ("failures", Text(f"{moment.failures:,}", "bold red" if moment.failures else "green")),
    ]
    for name, percent in (("server", moment.server_percent), ("generator", moment.generator_percent)):
        if percent is not None:
            rows.append((name, Text(quantity(percent, "% of a core"), "yellow" if percent > 85 else "")))
    for row in rows:
        grid.add_row(*row)
    left_s = max(0.0, profile.total_s - moment.elapsed_s)
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(profile.name, "bold"),
        Text(moment.phase or "starting", "cyan"),
        ProgressBar(profile.total_s, min(moment.elapsed_s, profile.total_s), width=BAR_WIDTH),
        Text(f"{left_s:,.0f} s left"),
    )
    return Group(head, grid)


def _of(count: int, total: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(f"{count:,} of {total:,}"), ProgressBar(total, min(count, total), width=BAR_WIDTH // 2))
    return row
