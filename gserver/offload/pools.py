"""The pools of this process: those that its worker has started, or, without a worker, threads with the defaults."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gevent import get_hub, sleep

from gserver.counters import Cells, Counters, offload_cell
from gserver.offload.errors import Died, Full, Timeout

if TYPE_CHECKING:
    from gserver.offload.process_pool import Processes
    from gserver.offload.thread_pool import Threads

__all__ = ["PoolSizes", "Pools", "current", "start"]

CLOSE_POLL_S = 0.01

_current: Pools | None = None


@dataclass(frozen=True)
class PoolSizes:
    """The settings offload_threads, offload_processes, offload_queue and offload_max_tasks, with their defaults."""

    threads: int = 10
    processes: int = 0
    queue: int = 100
    max_tasks: int = 0


class Pools:
    """The threads and the processes of one worker.

    Args:
        cells: where the calls are counted; see gserver.counters. Default: memory of its own.
    """

    def __init__(self, sizes: PoolSizes, cells: Cells | None = None) -> None:
        self.sizes = sizes
        self._cells = Counters().cells if cells is None else cells
        self._pid = os.getpid()
        self._hub = get_hub()
        self._threads: Threads | None = None
        self._processes: Processes | None = None
        self._is_closing = False

    @property
    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def start_threads(self) -> None:
        """Start the threads, if there are to be some and they do not run yet."""
        if self._threads is None and self.sizes.threads:
            from gserver.offload.thread_pool import Threads  # a worker that does not use it does not load it

            self._threads = Threads(self.sizes.threads, self.sizes.queue)

    def start_processes(self, modules: Sequence[str], is_silent: bool, timeout_s: float | None) -> None:
        """Start the processes, and wait until all of them can be used. ConfigError if that fails.

        Args:
            modules: see Processes.
            is_silent: see Processes.
            timeout_s: how long the start of a process may take, in seconds; None: no limit.
        """
        if self.sizes.processes:
            from gserver.offload.process_pool import Processes

            sizes = self.sizes
            self._processes = Processes(
                sizes.processes, sizes.queue, sizes.max_tasks, modules, is_silent=is_silent, start_timeout_s=timeout_s
            )
            self._processes.start()

    def thread(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Any:
        if not self.sizes.threads:
            raise RuntimeError("offload.thread() needs the setting offload_threads, which is 0")
        self._check(function, timeout_s)
        self.start_threads()
        assert self._threads is not None
        return self._counted("thread", self._threads.call, function, arguments, timeout_s)

    def process(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None) -> Any:
        if self._processes is None:
            raise RuntimeError("offload.process() needs the setting offload_processes, which is 0")
        self._check(function, timeout_s)
        return self._counted("process", self._processes.call, function, arguments, timeout_s)

    def renew_processes(self) -> None:
        """Replace each process after its next call, because what it has inherited is old."""
        if self._processes is not None:
            self._processes.renew()

    def close(self, timeout_s: float = 0.0) -> None:
        """Wait until the calls that run or wait have ended, at most so long, and end the pools. No call is accepted."""
        self._is_closing = True
        pools = [pool for pool in (self._threads, self._processes) if pool is not None]
        left_s = timeout_s
        while left_s > 0 and any(pool.running or pool.waiting for pool in pools):
            sleep(CLOSE_POLL_S)
            left_s -= CLOSE_POLL_S
        for pool in pools:
            pool.close()

    def leave_to_parent(self) -> list[int]:
        """In a process forked from this one: return the descriptors of the pools, for the caller to replace."""
        return [] if self._processes is None else self._processes.descriptors

    def _check(self, function: Callable[..., Any], timeout_s: float | None) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} is not a function: offload calls function(*arguments)")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is declared with async def: offload calls plain functions")
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout is {timeout_s!r}, must be a number of seconds above 0, or None")
        if self._is_closing:
            raise RuntimeError("the worker is about to end, and makes no more calls")
        if get_hub() is not self._hub:
            raise RuntimeError("offload is for the greenlets of the worker: this is another thread")

    def _counted(
        self,
        pool: str,
        call: Callable[..., Any],
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        timeout_s: float | None,
    ) -> Any:
        self._count(pool, "calls")
        try:
            return call(function, arguments, timeout_s)
        except Full:
            self._count(pool, "refused")
            raise
        except Timeout:
            self._count(pool, "timeouts")
            raise
        except Died:
            self._count(pool, "died")
            raise

    def _count(self, pool: str, event: str) -> None:
        self._cells[offload_cell(pool, event)] += 1


def start(sizes: PoolSizes, cells: Cells | None = None) -> Pools:
    """Make the pools of this process, and return them. They are empty at first."""
    global _current
    _current = Pools(sizes, cells)
    return _current


def current() -> Pools:
    """The pools of this process. In a process that was forked from another one, its pools are not used."""
    if _current is None or not _current.is_of_this_process:
        return start(PoolSizes())
    return _current
