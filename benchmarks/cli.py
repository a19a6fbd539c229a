"""The command python -m benchmarks JOB...: parse the arguments, measure, print tables."""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from benchmarks.contestants import GSERVER, OURS, RECIPES, Command, parse_peers
from benchmarks.jobs import GROUPS, JOBS, Job, jobs_named, with_axes
from benchmarks.session import SECONDS, Options, Session, heading
from benchmarks.tables import render_results
from benchmarks.toolchain import Toolchain, default_cache
from loadtests.host.environment import raise_nofile_limit
from loadtests.host.subprocesses import terminated_as_interrupted
from loadtests.servers.spec import parse_command

__all__ = ["entry_point", "main"]

EXIT_FAILURES = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
ROUNDS = 5
#: Axis -> its help text, and its largest value.
AMOUNTS = {
    "connections": ("connections", 1_000_000),
    "payload": ("bytes of a message", 64 * 1024 * 1024),
    "depth": ("messages in flight on each connection", 10_000),
}

Value = TypeVar("Value")


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0, 1 if a server failed, 2 for a wrong argument, 130 after Ctrl-C or SIGTERM."""
    arguments = _parser().parse_args(argv)
    try:
        jobs = [with_axes(job, _axes(arguments)) for job in jobs_named(arguments.jobs)]
        with terminated_as_interrupted():
            return _measure(jobs, arguments)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_FAILURES
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def entry_point() -> NoReturn:
    """Run the command with the arguments of this process, and exit."""
    raise_nofile_limit()
    os.environ.pop("GSERVER_CMD_ARGS", None)  # it would change the settings of the servers that are started
    sys.exit(main(sys.argv[1:]))


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, [*JOBS, *GROUPS]))
    about = {name: job.about for name, job in JOBS.items()}
    about |= {name: f"all of {', '.join(names)}" for name, names in GROUPS.items()}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure gserver and other servers in turn, and print their figures and the ratios.",
        epilog="jobs:\n" + "\n".join(f"  {name:{width}}  {text}" for name, text in about.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("jobs", metavar="JOB", nargs="+", help="what to measure; the list is below")
    parser.add_argument(
        "--ours",
        metavar="COMMAND",
        type=_checked(parse_command),
        default=GSERVER,
        help="command of the server to measure; {port}, {app} (the service), {workers} and {tls} (--certfile and "
        "--keyfile) are replaced (default: gserver of this interpreter)",
    )
    parser.add_argument(
        "--against",
        metavar="NAME=COMMAND",
        type=_checked(_named_command),
        action="append",
        default=[],
        help="command of a further server to compare with; may be repeated",
    )
    parser.add_argument(
        "--peers",
        metavar="LIST",
        type=_checked(parse_peers),
        help=f"the peers, from {','.join(RECIPES)}; the last five are gserver in other configurations "
        "(default: those of the job)",
    )
    _add_amounts(parser)
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all measurements and ratios to FILE")
    parser.add_argument(
        "--cache", metavar="DIR", type=Path, default=default_cache(), help="folder for compiled programs"
    )
    return parser


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    for axis, (text, largest) in AMOUNTS.items():
        parser.add_argument(
            f"--{axis}",
            metavar="N[,N...]",
            type=_checked(functools.partial(_whole_numbers, largest=largest)),
            help=f"{text}; each value is measured by itself (default: those of the job)",
        )
    parser.add_argument(
        "--seconds", type=_checked(_seconds), default=SECONDS, help=f"length of each measurement (default {SECONDS:g})"
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=_checked(functools.partial(_whole_number, largest=1000)),
        default=ROUNDS,
        help=f"how often each server is measured (default {ROUNDS})",
    )
    parser.add_argument("--seed", metavar="N", type=int, help="seed of the order of measurements (default: random)")


def _checked(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return `parse` for argparse, so that the user reads the text of its ValueError."""

    def convert(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _whole_number(text: str, largest: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= largest:
        raise ValueError(f"{text!r} is not a whole number from 1 to {largest:,}")
    return int(text)


def _whole_numbers(text: str, largest: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_whole_number(part.strip(), largest) for part in text.split(",")))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 3600:
        raise ValueError(f"{text!r} is not a number of seconds above 0 and below 3600")
    return seconds


def _named_command(text: str) -> tuple[str, Command]:
    name, _, command = text.partition("=")
    if not name.isidentifier() or name in RECIPES or name == OURS:
        raise ValueError(f"{text!r} is not NAME=COMMAND with a NAME that no other server has")
    return name, parse_command(command)


def _axes(arguments: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    given = {axis: getattr(arguments, axis) for axis in AMOUNTS}
    return {axis: values for axis, values in given.items() if values is not None}


def _measure(jobs: Sequence[Job], arguments: argparse.Namespace) -> int:
    options = Options(
        Toolchain(arguments.cache),
        arguments.ours,
        arguments.peers,
        dict(arguments.against),
        arguments.rounds,
        arguments.seconds,
        random.randrange(10**6) if arguments.seed is None else arguments.seed,
    )
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ValueError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    session = Session(options, lambda line: print(line, file=sys.stderr, flush=True))
    print(*heading(options), sep="\n", end="\n\n")
    for job in jobs:
        results, skipped = session.carry_out(job)
        for line in skipped:
            print(f"skipped: {line}", flush=True)
        if results is not None and any(results.measurements.values()):
            print(render_results(results, arguments.markdown), flush=True)
    for line in session.failures:
        print(f"failed: {line}", file=sys.stderr)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(session.document(), indent=2) + "\n")
    return EXIT_FAILURES if session.failures else 0
