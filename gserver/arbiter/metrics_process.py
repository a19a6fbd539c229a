"""The metrics process, from the arbiter's side: its address, its forks and restarts.

The arbiter binds `metrics_bind` and keeps the listener. So while the process is replaced (after a reload, for a log
rotation, after its death), clients wait in the accept queue. The process serves until its *lifeline* ends, a pipe of
which the arbiter holds the other end: so it also ends with the arbiter. A new process is forked before the lifeline of
the previous one is closed. If a process dies, the next fork waits, and the pause doubles each time.

In a binary upgrade both arbiters have the listener, and one serves: the one that owns the pid file. Otherwise a scraper
would get the counters of one server, then those of the other.

Closes: close() closes the listener and removes the path of a unix socket.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from gserver.arbiter.binary_upgrade import Descriptors
from gserver.arbiter.child_processes import Death, Ended
from gserver.arbiter.listeners import Listeners
from gserver.arbiter.scoreboard import Scoreboard
from gserver.config.addresses import Bind
from gserver.config.settings import Settings
from gserver.errors import ConfigError

__all__ = ["MetricsContext", "MetricsProcess", "RunMetrics", "check_metrics"]

log = logging.getLogger("gserver.arbiter")

# The length of the accept queue. Its clients are few: scrapers, load balancers, a browser.
BACKLOG = 64
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# A process that has run for so long was healthy: after its death the next fork waits for the shortest pause again.
HEALTHY_S = 10.0


@dataclass
class MetricsContext:
    """What the arbiter passes to the metrics process at the fork."""

    settings: Settings
    scoreboard: Scoreboard
    listener: socket.socket
    lifeline: int  # reads end-of-file when the process is to end


#: The main function of the metrics process: called in the child, returns the exit status.
RunMetrics = Callable[[MetricsContext], int]


def check_metrics(bind: Bind | None) -> None:
    """ConfigError if metrics are to be served and prometheus-client is not installed."""
    if bind is not None and importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError(
            f"setting metrics_bind is {str(bind)!r}, which needs prometheus-client: pip install 'gserver-tcp[metrics]'"
        )


class MetricsProcess:
    """Keeps the listener of `metrics_bind`, and one process that serves it.

    Args:
        run: the main function of the process.
        owner: user and group of a new unix socket, as for Listeners.
    """

    def __init__(self, run: RunMetrics, owner: tuple[str | None, str | None]) -> None:
        self._run = run
        self._listeners = Listeners(BACKLOG, owner=owner)
        self._bind: Bind | None = None  # the address that is served
        self._pid: int | None = None
        self._lifeline: int | None = None  # our end
        self._started_at = 0.0
        self._pause_s = 0.0
        #: When to call restart_due() at the latest; None: not before an event.
        self.wakes_at: float | None = None

    # The address

    def adopt(self, inherited: Descriptors) -> None:
        """Take over the listener of another arbiter."""
        self._listeners.adopt(inherited)

    def open(self, bind: Bind | None, patient: bool = True) -> None:
        """Bind an address, beside the one that is served; ConfigError if that is not possible."""
        self._listeners.open([] if bind is None else [bind], patient)

    def keep(self, bind: Bind | None) -> None:
        """Close the listeners of all other addresses."""
        self._listeners.keep([] if bind is None else [bind])

    @property
    def descriptors(self) -> Descriptors:
        """The listener, as adopt() of a new arbiter takes it."""
        return self._listeners.descriptors

    def close(self, is_shared: bool) -> None:
        """Close the listener. is_shared: another arbiter listens at the same path, so it is not removed."""
        self.stop()
        if is_shared:
            self._listeners.close_without_unlink()
        else:
            self._listeners.close()

    def leave_to_child(self) -> None:
        """In a child process: close the listener and the lifeline of the metrics process."""
        self._listeners.close_without_unlink()
        self._close_lifeline()

    # The process

    def prepare(self, fork: Callable[[Callable[[], int], Ended], int], scoreboard: Scoreboard) -> None:
        """Before start(). fork: called with the main function of a child, and the function to call at its end."""
        self._fork_child, self._scoreboard = fork, scoreboard

    def start(self, settings: Settings) -> None:
        """Serve the address of `settings`, with a new process; then end the previous one, and close its address."""
        previous = self._lifeline  # leave_to_child() closes it in the new process
        if settings.metrics_bind is not None and settings.metrics_bind != self._bind:
            log.info("Metrics and health at: %s", self._listeners.describe_bind(settings.metrics_bind))
        self._settings, self._bind, self._pid, self.wakes_at = settings, settings.metrics_bind, None, None
        self._fork()
        if previous is not None:
            os.close(previous)
        if self._lifeline == previous:  # no new process
            self._lifeline = None
        self.keep(self._bind)

    @property
    def is_started(self) -> bool:
        """Whether a process runs, or will be forked after a pause."""
        return self._bind is not None

    def replace(self) -> None:
        """Replace the process, if one is to run: the new one has the log files that the arbiter has opened."""
        if self.is_started:
            self.start(self._settings)

    def restart_due(self) -> None:
        """Fork the process again if it has died and the pause is over."""
        if self.wakes_at is not None and time.monotonic() >= self.wakes_at:
            self.wakes_at = None
            self._fork()

    def stop(self) -> None:
        """End the process; the listener stays open."""
        self._bind = self._pid = self.wakes_at = None
        self._close_lifeline()

    def _fork(self) -> None:
        if self._bind is None:
            return
        listener = self._listeners.duplicate(self._bind)
        reader, writer = os.pipe()
        context = MetricsContext(self._settings, self._scoreboard, listener, reader)
        try:
            self._pid = self._fork_child(functools.partial(_run_child, self._run, context, writer), self._ended)
        except OSError as error:
            os.close(writer)
            self._wait_after(f"cannot be forked: {error.strerror or error}")
        else:
            self._lifeline, self._started_at = writer, time.monotonic()
        finally:
            os.close(reader)
            listener.close()

    def _ended(self, death: Death) -> None:
        if death.pid != self._pid:  # it was replaced or stopped
            return
        self._pid = None
        self._close_lifeline()
        if time.monotonic() - self._started_at >= HEALTHY_S:
            self._pause_s = 0.0
        self._wait_after(f"ended with {death.how} (pid: {death.pid})")

    def _wait_after(self, what: str) -> None:
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
        self.wakes_at = time.monotonic() + self._pause_s
        log.error("The metrics process %s; the next fork is in %g s", what, self._pause_s)

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            with contextlib.suppress(OSError):
                os.close(self._lifeline)
            self._lifeline = None


def _run_child(run: RunMetrics, context: MetricsContext, writer: int) -> int:
    os.close(writer)
    return run(context)
