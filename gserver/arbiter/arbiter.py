"""The arbiter: binds, forks workers, keeps their number, and ends them in an orderly way. It never serves.

One loop, which sleeps until a signal, a word from a worker or a deadline. Each worker has a socket pair with the
arbiter: the worker says READY on it once, and end-of-file on it tells a worker that its arbiter is gone.

Closes: run() closes the listeners, the socket pairs and the signal queue, and leaves no worker behind.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from gserver.arbiter import listeners as listening
from gserver.arbiter.children import Child, Children
from gserver.arbiter.signals import Request, SignalQueue
from gserver.settings import Settings

__all__ = ["EXIT_CANNOT_START", "READY", "Arbiter", "RunWorker"]

log = logging.getLogger("gserver.arbiter")

READY = b"R"
EXIT_CANNOT_START = 3
# After the graceful timeout, or after QUIT: what a worker gets to notice before SIGKILL.
KILL_GRACE_S = 2.0

#: The worker's part: called in the child with the listeners and the channel to the arbiter; returns the exit status.
RunWorker = Callable[[list[socket.socket], socket.socket], int]


class Arbiter:
    """Supervise workers that each call `run_worker`, until told to stop."""

    def __init__(self, settings: Settings, run_worker: RunWorker) -> None:
        self._settings = settings
        self._run_worker = run_worker
        self._children = Children(settings.workers)
        self._channels: dict[int, socket.socket] = {}
        self._listeners: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._stopping: Request | None = None
        self._deadline: float | None = None  # when the workers are killed
        self._exit_status = 0

    def run(self) -> int:
        """Serve until told to stop; return the exit status. ConfigError if an address cannot be had."""
        self._listeners = listening.bind_all(self._settings.bind, self._settings.backlog)
        self._signals = SignalQueue()
        self._selector.register(self._signals, selectors.EVENT_READ)
        log.info("Listening at: %s (%d)", ", ".join(map(listening.describe, self._listeners)), os.getpid())
        try:
            while self._stopping is None or self._children:
                self._spawn_missing()
                self._wait()
                self._kill_overdue()
        finally:
            self._close()
        log.info("Stopped")
        return self._exit_status

    # One turn of the loop

    def _spawn_missing(self) -> None:
        if self._stopping is None:
            for _ in range(self._children.to_spawn(time.monotonic())):
                self._spawn()

    def _wait(self) -> None:
        now = time.monotonic()
        wakes_at = self._deadline if self._stopping else self._children.wakes_at(now)
        for key, _ in self._selector.select(None if wakes_at is None else max(0.0, wakes_at - now)):
            if key.fileobj is self._signals:
                self._obey(self._signals.read())
            elif key.data in self._channels:  # else its worker was reaped a moment ago, in this very loop
                self._hear(key.data)

    def _kill_overdue(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            for pid in self._children.pids:
                log.warning("Killing worker that did not stop in time (pid: %d)", pid)
                os.kill(pid, signal.SIGKILL)
            self._deadline = None

    # Workers

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with self._signals.held():
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(theirs)
        theirs.close()
        self._channels[pid] = ours
        self._selector.register(ours, selectors.EVENT_READ, pid)
        self._children.spawned(pid, time.monotonic())

    def _become_worker(self, channel: socket.socket) -> NoReturn:
        """In the child: drop what is the arbiter's, run, and never return into the arbiter's code."""
        status = 1
        try:
            self._signals.leave_to_child()
            self._selector.close()
            for other in self._channels.values():
                other.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
            status = self._run_worker(self._listeners, channel)
        except BaseException:
            log.exception("Worker failed")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _hear(self, pid: int) -> None:
        """A worker said that it is ready, or closed its end because it is ending."""
        channel = self._channels[pid]
        if channel.recv(1) == READY:
            log.info("Worker ready (pid: %d)", pid)
            self._children.became_ready(pid)
        else:
            self._selector.unregister(channel)
            channel.close()
            del self._channels[pid]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # A worker that said it was ready and died at once has still proven that the application loads.
            if pid in self._channels:
                self._hear_last_words(pid)
            child = self._children.exited(pid, time.monotonic())
            if child is not None:
                self._report_exit(child, os.waitstatus_to_exitcode(status))

    def _hear_last_words(self, pid: int) -> None:
        while pid in self._channels:
            self._hear(pid)

    def _report_exit(self, child: Child, code: int) -> None:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        level = logging.INFO if self._stopping else logging.ERROR
        log.log(level, "Worker exited with %s (pid: %d)", how, child.pid)
        if self._children.cannot_start and self._stopping is None:
            log.error("The application cannot be served; stopping")
            self._exit_status = EXIT_CANNOT_START
            self._stopping = Request.QUIT

    # Stopping

    def _obey(self, requests: list[Request]) -> None:
        for request in requests:
            if request is Request.REAP:
                self._reap()
            elif request is Request.QUIT or self._stopping is not None:
                self._stop(Request.QUIT)  # asked twice to drain means at once
            else:
                self._stop(Request.DRAIN)

    def _stop(self, request: Request) -> None:
        drain = request is Request.DRAIN
        log.info("Stopping: %s", "replying to what was received" if drain else "at once")
        self._stopping = request
        # The workers still have the listeners, and accept what the kernel has queued; nobody new gets in after them.
        listening.close_all(self._listeners)
        for pid in self._children.pids:
            os.kill(pid, signal.SIGTERM if drain else signal.SIGQUIT)
        patience = self._settings.graceful_timeout if drain else 0.0
        self._deadline = time.monotonic() + patience + KILL_GRACE_S

    def _close(self) -> None:
        for pid in self._children.pids:  # only after an exception in the loop itself
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        listening.close_all(self._listeners)
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self._selector.close()
        self._signals.close()
