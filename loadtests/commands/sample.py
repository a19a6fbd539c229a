"""`loadtests sample`: samples the processes of a server and of a swarm, for a run.

    loadtests sample --pid PID --output FILE       write samples to a file
    loadtests sample --pid PID --listen HOST:PORT  on the server's host: send samples to each client that connects
    loadtests sample --connect HOST:PORT --output FILE   on the run's host: receive them, with this host's times

It ends with the server's process, or at TERM or INT, with status 0; with status 1 and one line if it cannot go on.
USR1 adds to the next sample what is expensive to read: which descriptors are sockets, and memory by its pages.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gserver.config.addresses import TcpBind, parse_bind
from loadtests.exit_status import EXIT_FAILURE
from loadtests.sampling.remote_feed import FeedLost
from loadtests.sampling.sampler import DEFAULT_INTERVAL_S, CannotSample, SampleRequest, run_sampler
from loadtests.url import host_name

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Sample a server's processes and its host, for `loadtests run` on this or on another host."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests sample`."""
    parser.description = DESCRIPTION
    source = parser.add_argument_group("source (one of them is required)")
    source.add_argument("--pid", type=_number, help="root of the server's process tree")
    source.add_argument(
        "--connect", type=_address, metavar="HOST:PORT", help="a `loadtests sample --listen` on another host"
    )
    destination = parser.add_argument_group("destination (one of them is required)")
    destination.add_argument("--output", type=Path, metavar="FILE", help="append the samples to this file")
    destination.add_argument(
        "--listen", type=_address, metavar="HOST:PORT", help="send the samples to each client that connects here"
    )
    samples = parser.add_argument_group("samples")
    samples.add_argument("--generator", type=_number, metavar="PID", help="root of the generator's process tree")
    samples.add_argument("--port", type=_number, metavar="PORT", help="port under test: sample its accept queue")
    samples.add_argument(
        "--host", default="", metavar="ADDRESS", help="address under test, if other servers listen on --port too"
    )
    samples.add_argument("--stats-socket", metavar="PATH", help="stats socket of a gserver: sample its counters")
    samples.add_argument(
        "--interval", type=_interval, default=DEFAULT_INTERVAL_S, metavar="SECONDS",
        help=f"time between samples (default {DEFAULT_INTERVAL_S:g})",
    )  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Sample until the process ends or a signal comes; return the exit status."""
    request = _request(arguments)
    try:
        why_ended = run_sampler(request)
    except (CannotSample, FeedLost) as error:
        _print(str(error))
        return EXIT_FAILURE
    except OSError as error:
        _print(f"{request.output or request.listen or request.connect}: {_cause(error)}")
        return EXIT_FAILURE
    if why_ended is not None:
        _print(why_ended)
    return 0


def _request(arguments: argparse.Namespace) -> SampleRequest:
    if (arguments.pid is None) == (arguments.connect is None):
        raise ValueError("either --pid or --connect must be given")
    if (arguments.output is None) == (arguments.listen is None):
        raise ValueError("either --output or --listen must be given")
    if arguments.connect is not None and arguments.output is None:
        raise ValueError("--connect needs --output")
    return SampleRequest(
        pid=arguments.pid,
        connect=arguments.connect,
        output=arguments.output,
        listen=arguments.listen,
        generator_pid=arguments.generator,
        port=arguments.port,
        host=arguments.host,
        stats_socket=arguments.stats_socket,
        interval_s=arguments.interval,
    )


def _print(line: str) -> None:
    print(f"loadtests sample: {line}", file=sys.stderr)


def _cause(error: OSError) -> str:
    """The reason as the system words it, without the address that Python adds."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error.strerror or error)


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
