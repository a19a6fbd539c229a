"""The progress of a run: one line that is rewritten on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from loadtests.figures import server_cpu
from loadtests.profiles import Profile
from loadtests.text import human

__all__ = ["Progress"]

LINE_EVERY_S = 5.0
# As the sampler takes four samples a second: about a second.
SAMPLES_SHOWN = 5


class Progress:
    """Shows on standard error what the swarm reports; in `with`, the line on a terminal is finished at the end."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._began = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._shown = -1.0  # the second of the newest line
        self._next_line = 0.0

    def __enter__(self) -> Progress:
        self._write("starting the swarm")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_terminal:
            sys.stderr.write("\n")

    def show(
        self, lines: Sequence[Mapping[str, float]], samples: Sequence[Mapping[str, Any]] = (), phase: str = ""
    ) -> None:
        """Show the newest line, if it was not shown yet, with the processor use of the newest samples."""
        elapsed_s = time.monotonic() - self._began
        if not lines or lines[-1]["second"] <= self._shown or (not self._is_terminal and elapsed_s < self._next_line):
            return
        self._shown = lines[-1]["second"]
        self._next_line = elapsed_s + LINE_EVERY_S
        cpu = server_cpu(samples[-SAMPLES_SHOWN], samples[-1]) if len(samples) >= SAMPLES_SHOWN else None
        self._write(render_progress(self._profile, elapsed_s, lines[-1], cpu))

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()


def render_progress(
    profile: Profile, elapsed_s: float, line: Mapping[str, float], server_cpu_percent: float | None = None
) -> str:
    """One line: time, sockets, rate, latency, failures, and the server's processor use if it is sampled."""
    server = "" if server_cpu_percent is None else f"  server {human(server_cpu_percent, '% of a core')}"
    return (
        f"{min(elapsed_s, profile.duration_s):3.0f} of {profile.duration_s:.0f} s  "
        f"{line['sockets']:,.0f} of {profile.sockets:,} sockets  "
        f"{line['exchanges']:,.0f} exchanges/s  "
        f"p99 {human(line['p99_ns'] / 1000, 'us') if line['exchanges'] else '-'}  "
        f"{line['failures']:,.0f} failures{server}"
    )
