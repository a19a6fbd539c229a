"""The progress of a run: one line that is rewritten on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from loadtests.profiles import Profile
from loadtests.text import human

__all__ = ["Progress"]

LINE_EVERY_S = 5.0


class Progress:
    """Shows on standard error what the swarm reports; in `with`, the line on a terminal is finished at the end."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._began = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._shown = 0
        self._next_line = 0.0

    def __enter__(self) -> Progress:
        self._write("starting the swarm")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_terminal:
            sys.stderr.write("\n")

    def show(self, lines: list[dict[str, float]]) -> None:
        """Show the newest line, if it was not shown yet."""
        elapsed_s = time.monotonic() - self._began
        if len(lines) <= self._shown or (not self._is_terminal and elapsed_s < self._next_line):
            return
        self._shown = len(lines)
        self._next_line = elapsed_s + LINE_EVERY_S
        self._write(render_progress(self._profile, elapsed_s, lines[-1]))

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()


def render_progress(profile: Profile, elapsed_s: float, line: dict[str, float]) -> str:
    """One line: time, sockets, rate, latency, failures."""
    return (
        f"{elapsed_s:3.0f} of {profile.duration_s:.0f} s  "
        f"{line['sockets']:,.0f} of {profile.sockets:,} sockets  "
        f"{line['exchanges']:,.0f} exchanges/s  "
        f"p99 {human(line['p99_ns'] / 1000, 'us')}  "
        f"{line['failures']:,.0f} failures"
    )
