"""Samples the CPU time, memory and sockets of a run. A separate process: a busy generator would delay the samples.

A line of JSON for each sample: "time_s" on the monotonic clock, which all processes of a host share; "processes" of
the server's tree and "generator", with what each has used so far; "kernel"; "server", the counters of gserver itself;
"sampler", the cost of sampling. Values that cannot be read are left out.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil

from gserver.arbiter.stats_socket import read_stats
from gserver.config.addresses import TcpBind
from gserver.errors import ConfigError
from loadtests.host import kernel_counters
from loadtests.sampling.idle_scheduling import IdleScheduling
from loadtests.sampling.process_tree import Budget, Plateau, Tree
from loadtests.sampling.remote_feed import Broadcast, Feed
from loadtests.sampling.wakeup import Wakeup

__all__ = ["DEFAULT_INTERVAL_S", "CannotSample", "SampleRequest", "Sampler", "run_sampler"]

DEFAULT_INTERVAL_S = 0.25
# If the arbiter does not reply within this time, the sample has no counters of gserver.
STATS_PATIENCE_S = 0.2
# Above this number of descriptors, counting the sockets of a tree would delay the samples; gserver's own counters have
# the number of connections.
MOST_COUNTED = 20_000


class CannotSample(Exception):
    """A process cannot be sampled; the text is one line for the user."""


@dataclass(frozen=True)
class SampleRequest:
    """What to sample, and where the samples go.

    Attributes:
        pid: root of the server's process tree; None with `connect`.
        connect: a sampler on another host, instead of `pid`.
        output: a file to append to. listen: an address for clients, instead of `output`.
        generator_pid: root of the generator's process tree.
        port, host: under test, for the accept queue; host "": every address.
        stats_socket: of a gserver, for its counters.
    """

    pid: int | None = None
    connect: TcpBind | None = None
    output: Path | None = None
    listen: TcpBind | None = None
    generator_pid: int | None = None
    port: int | None = None
    host: str = ""
    stats_socket: str | None = None
    interval_s: float = DEFAULT_INTERVAL_S


@dataclass
class Sampler:
    """Takes samples.

    Attributes:
        server, generator: process trees of this host, if any.
        port, addresses: under test, for the accept queue; no addresses: all.
        stats_socket: of a gserver.
        wants_expensive: include in the next sample what is expensive to read. True at first: all later samples are
            compared with the one that was taken before any socket.
    """

    server: Tree | None
    generator: Tree | None = None
    port: int | None = None
    addresses: frozenset[str] = frozenset()
    stats_socket: str | None = None
    wants_expensive: bool = True
    _sockets: Budget = field(default_factory=Budget)
    _memory: Budget = field(default_factory=Budget)
    _was_level: bool = False
    _plateau: Plateau = field(default_factory=Plateau)
    _own: psutil.Process = field(default_factory=psutil.Process)
    _not_reported: set[str] = field(default_factory=lambda: {"stats", "generator", "memory"})

    def take(self) -> dict[str, Any] | None:
        """Take a sample; None once the server has ended. CannotSample without permission to read the process."""
        sample: dict[str, Any] = {"time_s": time.monotonic(), "processes": []}
        if self.server is not None:
            sample["processes"] = self._server(sample["time_s"])
            if not sample["processes"]:
                return None
        if self.generator is not None:
            sample["generator"] = _readable(self.generator, False, False)
            if not sample["generator"]:
                self._print_once("generator", f"the generator, process {self.generator.root_pid}, has ended")
        sample["kernel"] = self._kernel()
        if (counted := self._counted()) is not None:
            sample["server"] = counted
        own = self._own.cpu_times()
        sample["sampler"] = {"cpu_s": own.user + own.system}
        return sample

    def _server(self, now_s: float) -> list[dict[str, Any]]:
        assert self.server is not None
        forced, self.wants_expensive = self.wants_expensive, False
        held, was_level, self._was_level = self._plateau.descriptors, self._was_level, self._plateau.is_level
        sockets = forced or (held <= MOST_COUNTED and self._sockets.allows(now_s))
        # Memory is read at the beginning of each plateau, even if the budget is used up.
        memory = forced or (self._was_level and (not was_level or self._memory.allows(now_s)))
        began_s = time.process_time()
        processes = _readable(self.server, sockets, memory)
        took_s = time.process_time() - began_s
        for budget, was_used in ((self._sockets, sockets), (self._memory, memory)):
            if was_used:
                budget.spent(now_s, took_s)
        if refused := next((process for process in processes if "memory_error" in process), None):
            self._print_once(
                "memory", f"the memory of process {refused['pid']} cannot be read: {refused['memory_error']}"
            )
        self._plateau.add(now_s, sum(process["descriptors"] for process in processes))
        return processes

    def _kernel(self) -> dict[str, Any]:
        found: dict[str, Any] = {**kernel_counters.processors()}
        pid = self.server.root_pid if self.server is not None else "self"
        with contextlib.suppress(OSError, KeyError):  # the process has ended, or this kernel has no such counter
            found.update(kernel_counters.network(pid))
            found["namespace"] = kernel_counters.namespace(pid)
        if self.port is not None and (pid == "self" or kernel_counters.same_namespace(int(pid))):
            with contextlib.suppress(OSError):
                if (listeners := kernel_counters.listeners(self.port, self.addresses)) is not None:
                    found.update(accept_queue=listeners.waiting, listeners=listeners.dropped)
        return found

    def _counted(self) -> dict[str, Any] | None:
        """The counters of gserver over all its workers."""
        if self.stats_socket is None:
            return None
        try:
            stats = read_stats(self.stats_socket, STATS_PATIENCE_S)
        except ConfigError as error:
            self._print_once("stats", str(error))
            return None
        lags = [worker["lag_s"] for worker in stats["workers"]]
        return {**stats["totals"], "workers": len(stats["workers"]), "lag_s": max(lags, default=0.0)}

    def _print_once(self, what: str, text: str) -> None:
        """Print a line for something that is missing in the samples from now on."""
        if what in self._not_reported:
            self._not_reported.discard(what)
            print(f"loadtests sample: {text}", file=sys.stderr)


def _readable(tree: Tree, sockets: bool, memory: bool) -> list[dict[str, Any]]:
    try:
        return tree.sample(sockets, memory)
    except psutil.AccessDenied as error:
        raise CannotSample(f"process {error.pid} may not be sampled: it belongs to another user") from None


def run_sampler(request: SampleRequest) -> str | None:
    """Sample until the server's process ends or a signal comes; return why it ended, None for a signal.

    CannotSample or FeedLost if sampling cannot start or go on, OSError for the file or the address.
    """
    with Wakeup(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as wakeup:
        return _relay(request, wakeup) if request.connect else _sample(request, wakeup)


def _addresses(host: str) -> frozenset[str]:
    """All addresses of a host name; empty if the name is unknown here, so that every listener of the port counts."""
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(host or None, 0)) if host else frozenset()
    except OSError:
        return frozenset()


def _tree(pid: int | None) -> Tree | None:
    try:
        return None if pid is None else Tree(pid)
    except psutil.NoSuchProcess:
        raise CannotSample(f"there is no process {pid}") from None


def _sample(request: SampleRequest, wakeup: Wakeup) -> str | None:
    trees = _tree(request.pid), _tree(request.generator_pid)
    sampler = Sampler(*trees, request.port, _addresses(request.host), request.stats_socket)
    with contextlib.ExitStack() as stack:
        if request.listen is not None:
            broadcast = stack.enter_context(Broadcast((request.listen.host, request.listen.port), wakeup))
            host, port = broadcast.address
            print(f"loadtests sample: listening at {TcpBind(host, port)}", file=sys.stderr, flush=True)
            why_ended = _loop(sampler, request.interval_s, wakeup, broadcast.send)
            broadcast.end(why_ended or "it was stopped by a signal")
        else:
            assert request.output is not None
            file = stack.enter_context(request.output.open("a"))
            why_ended = _loop(sampler, request.interval_s, wakeup, _writer(file))
    return why_ended


def _loop(
    sampler: Sampler, interval_s: float, wakeup: Wakeup, write: Callable[[Mapping[str, Any]], None]
) -> str | None:
    """Sample every `interval_s` seconds; return why the samples ended, None for a signal."""
    due_s, scheduling = time.monotonic(), IdleScheduling()
    while True:
        for number in wakeup.wait(due_s):
            if number != signal.SIGUSR1:
                return None
            sampler.wants_expensive = True
        sample = sampler.take()
        if sample is None:
            assert sampler.server is not None
            return f"process {sampler.server.root_pid} has ended"
        write(sample)
        scheduling.sampled()
        due_s = max(due_s + interval_s, time.monotonic())  # a late sample is not made up for


def _writer(file: TextIO) -> Callable[[Mapping[str, Any]], None]:
    def write(sample: Mapping[str, Any]) -> None:
        file.write(json.dumps(sample) + "\n")
        file.flush()

    return write


def _relay(request: SampleRequest, wakeup: Wakeup) -> str | None:
    """Write the samples of a sampler on another host, with this host's clock and this host's generator."""
    assert request.connect is not None
    assert request.output is not None
    sampler = Sampler(None, _tree(request.generator_pid), stats_socket=None)
    with request.output.open("a") as file, Feed((request.connect.host, request.connect.port), wakeup) as feed:
        write, scheduling = _writer(file), IdleScheduling()
        for sample in feed:
            here = sampler.take()
            assert here is not None
            if "generator" in here:
                sample["generator"] = here["generator"]
            sample["generator_host"] = {
                "time_s": here["time_s"],
                **here["kernel"],
                "sampler_cpu_s": here["sampler"]["cpu_s"],
            }
            write(sample)
            scheduling.sampled()
    return feed.why_ended
