"""`loadtests sample`: what a run costs its hosts, sampled by a process of its own, which a busy generator cannot blind.

    loadtests sample --pid PID --output FILE       samples into a file
    loadtests sample --pid PID --listen HOST:PORT  on a server's own machine: samples to whoever connects
    loadtests sample --connect HOST:PORT --output FILE   on the run's machine: those, on this machine's clock

A line of JSON for each sample: "time_s" on the monotonic clock, which every process of a host shares; "processes" of
the server's tree and "generator", with what each has used so far; "kernel"; "server", what gserver itself has counted;
"sampler", what all this costs. What cannot be had is left out. It ends with the tree, or at TERM or INT, with status 0;
with 1, and one line, if it cannot go on. USR1 asks for what is dear in the next sample: which descriptors are sockets,
and memory by its pages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gserver.arbiter.stats_socket import read_stats
from gserver.config.addresses import TcpBind, parse_bind
from gserver.errors import ConfigError
from loadtests.host import kernel_counters
from loadtests.sampling.process_tree import Budget, Plateau, Tree
from loadtests.sampling.remote_feed import Broadcast, Feed, FeedLost
from loadtests.sampling.wakeup import Wakeup
from loadtests.url import host_name

__all__ = ["Sampler", "main"]

DEFAULT_INTERVAL_S = 0.25
# An arbiter that does not answer in this time is left out of a sample, and asked again for the next.
STATS_PATIENCE_S = 0.2
# Above this, counting the sockets of a tree would hold up the samples; gserver's own counters say how many there are.
MOST_COUNTED = 20_000


class CannotSample(Exception):
    """The text is one line for a person."""


@dataclass
class Sampler:
    """Takes samples.

    Args:
        server, generator: the process trees, as far as they are of this host.
        port, addresses: that are tested, for the accept queue; without addresses all. stats_socket: gserver's.
    """

    server: Tree | None
    generator: Tree | None = None
    port: int | None = None
    addresses: frozenset[str] = frozenset()
    stats_socket: str | None = None
    is_dear_asked_for: bool = True  # the first sample, before any socket, is what all others are compared with
    _sockets: Budget = field(default_factory=Budget)
    _memory: Budget = field(default_factory=Budget)
    _was_level: bool = False
    _plateau: Plateau = field(default_factory=Plateau)
    _own: psutil.Process = field(default_factory=psutil.Process)
    _untold: set[str] = field(default_factory=lambda: {"stats", "generator", "memory"})

    def take(self) -> dict[str, Any] | None:
        """A sample; None once the server has ended. CannotSample if it may not be read."""
        sample: dict[str, Any] = {"time_s": time.monotonic(), "processes": []}
        if self.server is not None:
            sample["processes"] = self._server(sample["time_s"])
            if not sample["processes"]:
                return None
        if self.generator is not None:
            sample["generator"] = _readable(self.generator, False, False)
            if not sample["generator"]:
                self._tell("generator", f"the generator, process {self.generator.root_pid}, has ended")
        sample["kernel"] = self._kernel()
        if (counted := self._counted()) is not None:
            sample["server"] = counted
        own = self._own.cpu_times()
        sample["sampler"] = {"cpu_s": own.user + own.system}
        return sample

    def _server(self, now_s: float) -> list[dict[str, Any]]:
        assert self.server is not None
        asked, self.is_dear_asked_for = self.is_dear_asked_for, False
        held, was_level, self._was_level = self._plateau.descriptors, self._was_level, self._plateau.is_level
        sockets = asked or (held <= MOST_COUNTED and self._sockets.allows(now_s))
        # Each plateau has a reading at its beginning, whatever that of the one before it has cost.
        memory = asked or (self._was_level and (not was_level or self._memory.allows(now_s)))
        began_s = time.process_time()
        processes = _readable(self.server, sockets, memory)
        took_s = time.process_time() - began_s
        for budget, was_used in ((self._sockets, sockets), (self._memory, memory)):
            if was_used:
                budget.spent(now_s, took_s)
        if refused := next((process for process in processes if "memory_error" in process), None):
            self._tell("memory", f"the memory of process {refused['pid']} cannot be read: {refused['memory_error']}")
        self._plateau.add(now_s, sum(process["descriptors"] for process in processes))
        return processes

    def _kernel(self) -> dict[str, Any]:
        found: dict[str, Any] = {**kernel_counters.processors()}
        pid = self.server.root_pid if self.server is not None else "self"
        with contextlib.suppress(OSError, KeyError):  # it ended meanwhile, or its kernel does not count this
            found.update(kernel_counters.network(pid))
            found["namespace"] = kernel_counters.namespace(pid)
        if self.port is not None and (pid == "self" or kernel_counters.same_namespace(int(pid))):
            with contextlib.suppress(OSError):
                if (listeners := kernel_counters.listeners(self.port, self.addresses)) is not None:
                    found.update(accept_queue=listeners.waiting, listeners=listeners.dropped)
        return found

    def _counted(self) -> dict[str, Any] | None:
        """What gserver has counted over all its workers."""
        if self.stats_socket is None:
            return None
        try:
            told = read_stats(self.stats_socket, STATS_PATIENCE_S)
        except ConfigError as error:
            self._tell("stats", str(error))
            return None
        lags = [worker["lag_s"] for worker in told["workers"]]
        return {**told["totals"], "workers": len(told["workers"]), "lag_s": max(lags, default=0.0)}

    def _tell(self, what: str, text: str) -> None:
        """Once for each thing that is missing in the samples from now on."""
        if what in self._untold:
            self._untold.discard(what)
            print(f"loadtests sample: {text}", file=sys.stderr)


def _readable(tree: Tree, sockets: bool, memory: bool) -> list[dict[str, Any]]:
    try:
        return tree.sample(sockets, memory)
    except psutil.AccessDenied as error:
        raise CannotSample(f"process {error.pid} may not be sampled: it is another user's") from None


def main(argv: Sequence[str]) -> int:
    """Sample as `argv` says, to the end of the tree or until told to stop; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    try:
        with Wakeup(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as wakeup:
            return _relay(arguments, wakeup) if arguments.connect else _sample(arguments, wakeup)
    except (CannotSample, FeedLost) as error:
        print(f"loadtests sample: {error}", file=sys.stderr)
    except OSError as error:
        where = arguments.output or arguments.listen or arguments.connect
        print(f"loadtests sample: {where}: {_cause(error)}", file=sys.stderr)
    return 1


def _cause(error: OSError) -> str:
    """In the system's words, without those that Python adds about an address."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error.strerror or error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests sample", description="Sample what a run costs its hosts.")
    parser.add_argument("--pid", type=_number, help="the root of the server's process tree")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to append the samples")
    parser.add_argument("--listen", type=_address, metavar="HOST:PORT", help="where to give them to whoever connects")
    parser.add_argument("--connect", type=_address, metavar="HOST:PORT", help="take those that are given there")
    parser.add_argument("--generator", type=_number, metavar="PID", help="the root of the generator's process tree")
    parser.add_argument("--port", type=_number, metavar="PORT", help="that is tested: its accept queue is sampled")
    parser.add_argument("--host", default="", metavar="ADDRESS", help="that is tested, where --port has others on it")
    parser.add_argument("--stats-socket", metavar="PATH", help="gserver's, for what it has counted itself")
    parser.add_argument(
        "--interval", type=_interval, default=DEFAULT_INTERVAL_S, metavar="SECONDS", help="(default 0.25)"
    )
    return parser


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if (arguments.pid is None) == (arguments.connect is None):
        parser.error("either --pid or --connect must be given")
    if (arguments.output is None) == (arguments.listen is None):
        parser.error("either --output or --listen must be given")
    if arguments.connect is not None and arguments.output is None:
        parser.error("--connect needs --output")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r}, must be a number of at least 1")
    return int(text)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}, must be a number of seconds from 0.01 to 3600")
    return seconds


def _address(text: str) -> TcpBind:
    try:
        bind = parse_bind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(bind, TcpBind):
        raise argparse.ArgumentTypeError(f"{text!r}, must be HOST:PORT or [V6]:PORT")
    try:
        return TcpBind(host_name(bind.host), bind.port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _addresses(host: str) -> frozenset[str]:
    """Of a name all; none where it has none here, so that every listener of the port counts."""
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(host or None, 0)) if host else frozenset()
    except OSError:
        return frozenset()


def _tree(pid: int | None) -> Tree | None:
    try:
        return None if pid is None else Tree(pid)
    except psutil.NoSuchProcess:
        raise CannotSample(f"there is no process {pid}") from None


def _sample(arguments: argparse.Namespace, wakeup: Wakeup) -> int:
    trees = _tree(arguments.pid), _tree(arguments.generator)
    sampler = Sampler(*trees, arguments.port, _addresses(arguments.host), arguments.stats_socket)
    with contextlib.ExitStack() as stack:
        if arguments.listen is not None:
            broadcast = stack.enter_context(Broadcast((arguments.listen.host, arguments.listen.port), wakeup))
            host, port = broadcast.address
            print(f"loadtests sample: listening at {TcpBind(host, port)}", file=sys.stderr, flush=True)
            write, end = broadcast.send, broadcast.end
        else:
            file = stack.enter_context(arguments.output.open("a"))
            write, end = _writer(file), _ignore
        why = _loop(sampler, arguments.interval, wakeup, write)
        end(why or "it was told to stop")
    if why is not None:
        print(f"loadtests sample: {why}", file=sys.stderr)
    return 0


def _loop(sampler: Sampler, interval_s: float, wakeup: Wakeup, write: Any) -> str | None:
    """Why it ended, if not because it was told to."""
    due_s = time.monotonic()
    while True:
        for number in wakeup.wait(due_s):
            if number != signal.SIGUSR1:
                return None
            sampler.is_dear_asked_for = True
        sample = sampler.take()
        if sample is None:
            assert sampler.server is not None
            return f"process {sampler.server.root_pid} has ended"
        write(sample)
        due_s = max(due_s + interval_s, time.monotonic())  # one that came late is not made up for


def _writer(file: Any) -> Any:
    def write(sample: Mapping[str, Any]) -> None:
        file.write(json.dumps(sample) + "\n")
        file.flush()

    return write


def _ignore(why: str) -> None:
    """A file needs no farewell."""


def _relay(arguments: argparse.Namespace, wakeup: Wakeup) -> int:
    """Write what another host's sampler says, on this host's clock, with this host's generator beside it."""
    sampler = Sampler(None, _tree(arguments.generator), stats_socket=None)
    with arguments.output.open("a") as file, Feed((arguments.connect.host, arguments.connect.port), wakeup) as feed:
        write = _writer(file)
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
    if feed.why_ended is not None:
        print(f"loadtests sample: {feed.why_ended}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
