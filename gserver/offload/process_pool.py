"""The processes of a worker, and their supervision.

Each place of the pool has a greenlet that keeps one process in it: it starts the process, waits for its end, and starts
the next one, after a pause if the process did not live long. The greenlet of a call talks to the process itself. A call
that is given up (timeout, handler_timeout, a killed handler) kills its process.
"""

from __future__ import annotations

import logging
import pickle
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import AsyncResult

from gserver.errors import ConfigError
from gserver.offload.errors import Died, Timeout
from gserver.offload.places import Places
from gserver.offload.pool_process import PoolProcess, ProcessEnded

__all__ = ["Processes"]

log = logging.getLogger("gserver.offload")

# The pause after a process that could not be started, or ended before its first call. It doubles each time.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# How long a dismissed process may take to end by itself: its exit functions, and threads of the function.
DISMISSED_S = 1.0
# How long a call waits for the exit status of its process, for the error message.
STATUS_S = 1.0
TITLE = "gserver: offload"


class Processes:
    """A pool of processes, after start().

    Args:
        size: how many processes.
        most_waiting: how many calls may wait for a free process.
        max_tasks: a process is replaced after so many calls; 0: never.
        modules: those of the applications, which each process imports before it is ready, because they probably have
            the functions.
        is_silent: whether the standard output and error of the processes go to /dev/null.
        start_timeout_s: how long the start of a process may take, in seconds; None: no limit.
    """

    def __init__(
        self,
        size: int,
        most_waiting: int,
        max_tasks: int = 0,
        modules: Sequence[str] = (),
        *,
        is_silent: bool = False,
        start_timeout_s: float | None = None,
    ) -> None:
        self._size = size
        self._places: Places[PoolProcess] = Places("process", (), most_waiting)
        self._max_tasks = max_tasks
        self._modules = list(modules)
        self._is_silent = is_silent
        self._start_timeout_s = start_timeout_s
        self._keepers: list[gevent.Greenlet[..., None]] = []
        self._processes: set[PoolProcess] = set()  # all that have not ended
        self._ready: set[PoolProcess] = set()  # those that can be used
        self._is_closing = False
        self.running = 0

    @property
    def waiting(self) -> int:
        return self._places.waiting

    @property
    def descriptors(self) -> list[int]:
        return [descriptor for process in self._processes for descriptor in process.descriptors]

    @property
    def pids(self) -> list[int]:
        return sorted(process.pid for process in self._processes)

    def start(self) -> None:
        """Start the processes, and wait until all of them are ready. ConfigError if one cannot be started."""
        firsts: list[AsyncResult[None]] = [AsyncResult() for _ in range(self._size)]
        self._keepers = [gevent.spawn(self._keep, first) for first in firsts]
        try:
            for first in firsts:
                first.get()
        except Exception as error:
            self.close()
            raise ConfigError(f"setting offload_processes is {self._size}, but {error}") from None

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Any:
        """Call the function in a process. Full, Timeout, Died, or the exception of the function."""
        began = time.monotonic()
        request = pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
        process = self._take(timeout_s)
        self.running += 1
        try:
            left_s = None if timeout_s is None else max(0.0, began + timeout_s - time.monotonic())
            reply = self._exchange(process, request, left_s, function)
            if reply is None:
                raise Timeout(f"{_name_of(function)} did not return within {timeout_s:g} s, and its process is killed")
        finally:
            self.running -= 1
        has_returned, value = pickle.loads(reply)
        if has_returned:
            return value
        try:
            raise value
        finally:
            del value  # it would be a circle with the traceback

    def renew(self) -> None:
        """Replace each process after its next call: it has inherited what is old now, such as the log files."""
        for process in self._processes:
            process.is_outdated = True

    def close(self) -> None:
        """End all processes: those without a call by themselves, the others are killed."""
        self._is_closing = True
        for process in self._ready:
            process.dismiss()
        gevent.joinall(self._keepers, timeout=0.0 if self.running else DISMISSED_S)
        for process in self._processes:
            process.kill()
        gevent.joinall(self._keepers, timeout=STATUS_S)
        gevent.killall(self._keepers)  # those that wait before the next start
        self._places.fail_waiting(Died("the worker ends"))

    def _take(self, timeout_s: float | None) -> PoolProcess:
        while True:
            process = self._places.take(timeout_s)
            if not process.has_ended:
                return process

    def _exchange(
        self, process: PoolProcess, request: bytes, left_s: float | None, function: Callable[..., Any]
    ) -> bytearray | None:
        """Return the reply; None if the time is over. The process is free again, or is replaced."""
        process.calls += 1
        reply: bytearray | None = None
        try:
            reply = gevent.with_timeout(left_s, process.exchange, request, timeout_value=None)
        except ProcessEnded:
            process.kill()
            process.ended.wait(STATUS_S)
            raise Died(f"the process (pid: {process.pid}) that ran {_name_of(function)} {_end_of(process)}") from None
        finally:
            if reply is None:
                process.kill()
            elif self._is_closing or process.is_outdated or (self._max_tasks and process.calls >= self._max_tasks):
                process.dismiss()
            else:
                self._places.give(process)
        return reply

    def _keep(self, first: AsyncResult[None]) -> None:
        """Keep a process in one place of the pool. In a greenlet of its own.

        Args:
            first: set when the first process is ready, or could not be started.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            failure = self._run_safely(first)
            if self._is_closing:
                return
            if failure is None:
                pause_s = FIRST_PAUSE_S
                continue
            if not first.ready():
                first.set_exception(ConfigError(failure))
                return
            log.error("A process of the pool is started again in %.3g s: %s", pause_s, failure)
            if not self._ready:
                self._places.fail_waiting(Died(failure))
            gevent.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _run_safely(self, first: AsyncResult[None]) -> str | None:
        try:
            return self._run_one(first)
        except Exception as error:  # an error of this module must not cost the pool a place
            log.exception("Keeping a process of the pool failed")
            return f"keeping one failed: {error!r}"

    def _run_one(self, first: AsyncResult[None]) -> str | None:
        """Start a process, and wait for its end; return why it could not be used, None if it could."""
        try:
            process = PoolProcess(self._modules, TITLE, self._is_silent)
        except OSError as error:
            return f"no process can be started: {error}"
        self._processes.add(process)
        try:
            failure = self._wait_until_ready(process, is_first=not first.ready())
            if failure is not None:
                return failure
            self._ready.add(process)
            first.set(None)
            self._places.give(process)
            process.leaving.wait()
            process.ended.wait(DISMISSED_S)
            if not process.is_dismissed:
                log.warning("A process of the pool %s (pid: %d)", _end_of(process), process.pid)
            return None if process.calls or process.is_dismissed else f"the last one {_end_of(process)}"
        finally:
            self._end(process)

    def _wait_until_ready(self, process: PoolProcess, is_first: bool) -> str | None:
        """Return why the process is not ready; None if it is."""
        try:
            warning: str | None = gevent.with_timeout(
                self._start_timeout_s, process.wait_until_ready, timeout_value=None
            )
        except ProcessEnded:
            process.kill()
            process.ended.wait(STATUS_S)
            return f"a new process {_end_of(process)} before it was ready"
        if warning is None:
            return f"a new process was not ready within {self._start_timeout_s:g} s"
        if warning and is_first:
            log.warning("In a process of the pool, %s (pid: %d)", warning, process.pid)
        return None

    def _end(self, process: PoolProcess) -> None:
        self._ready.discard(process)
        self._places.remove(process)
        process.kill()
        process.ended.wait(STATUS_S)
        process.close()
        self._processes.discard(process)


def _end_of(process: PoolProcess) -> str:
    """How a process ended, in a few words."""
    if process.status is None:
        return "has ended"
    if process.status >= 0:
        return f"ended with exit status {process.status}"
    try:
        name = signal.Signals(-process.status).name
    except ValueError:  # a real-time signal
        name = str(-process.status)
    return f"was killed by {name}" if name != "SIGKILL" else "was killed by SIGKILL (memory may have run out)"


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
