"""loadtests run | report | compare | list."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from loadtests import ab_command, compare_command, history_command
from loadtests.address import parse_host
from loadtests.processes import NotAnswering
from loadtests.profiles import PROFILES, Profile
from loadtests.report import command as report_command
from loadtests.report import render_summary
from loadtests.results import ResultError
from loadtests.runner import Target, execute
from loadtests.text import render_table

__all__ = ["entry_point", "main"]

EXIT_FAILURES = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says; return the exit status: 0, 1 if something failed, 2 for a wrong argument, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.do(arguments)
        return status
    except (ResultError, NotAnswering, OSError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return EXIT_FAILURES
    except ValueError as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("loadtests: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def entry_point() -> NoReturn:
    """The command `loadtests`."""
    sys.exit(main(sys.argv[1:]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests", description="Put a swarm on a TCP server, and compare the runs.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="carry out a run and keep it in a folder"))
    report = commands.add_parser("report", help="report on runs: in words, as a page, as pictures")
    report_command.add_arguments(report)
    report.set_defaults(do=report_command.main)
    comparing = commands.add_parser("compare", help="set runs against others, and say what that proves")
    compare_command.add_arguments(comparing)
    comparing.set_defaults(do=compare_command.main)
    pairing = commands.add_parser("ab", help="run two servers in turns, in pairs, until it is known how they differ")
    ab_command.add_arguments(pairing)
    pairing.set_defaults(do=ab_command.main)
    trends = commands.add_parser("history", help="show the runs below a folder as trends, and what changed")
    history_command.add_arguments(trends)
    trends.set_defaults(do=history_command.main)
    listing = commands.add_parser("list", help="show the profiles")
    listing.set_defaults(do=_list)
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("profile", metavar="NAME", help=f"one of {', '.join(PROFILES)}")
    run.add_argument("--users", type=_at_least(1, int), metavar="N", help="sockets")
    run.add_argument("--duration", type=_at_least(1, float), metavar="SECONDS", help="from the first connect on")
    run.add_argument(
        "--rate", type=_at_least(0, float), metavar="R", help="exchanges a second of each socket; 0: no pause"
    )
    run.add_argument("--payload", type=_at_least(1, int), metavar="BYTES", help="of an echoed message")
    run.add_argument("--workers", type=_at_least(1, int), metavar="N", help="of the server")
    run.add_argument("--label", default="", metavar="TEXT", help="what this run is about")
    run.add_argument("--host", metavar="tcp://HOST:PORT", help="test a server that runs already")
    run.add_argument("--server-pid", type=_at_least(1, int), metavar="PID", help="its process, to sample it")
    run.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default results)")
    run.set_defaults(do=_run)


def _at_least(minimum: int, kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r}, must be a number of at least {minimum}")
        return value

    return parse


def _run(arguments: argparse.Namespace) -> int:
    profile = _profile(arguments)
    target = None
    if arguments.host:
        target = Target(parse_host(arguments.host), pid=arguments.server_pid)
    elif arguments.server_pid:
        raise ValueError("--server-pid says which process to sample at --host, and there is no --host")
    run, interrupted = execute(profile, target, arguments.results, arguments.label)
    print(f"\n{render_summary(run)}\n\n  run     {run.path}\n  report  {run.path / 'report.md'}")
    if interrupted:
        return EXIT_INTERRUPTED
    exchanges = run.figure("exchanges_ok")
    return EXIT_FAILURES if run.errors or not exchanges or not exchanges.value else 0


def _profile(arguments: argparse.Namespace) -> Profile:
    if arguments.profile not in PROFILES:
        raise ValueError(f"there is no profile {arguments.profile!r}: expected one of {', '.join(PROFILES)}")
    given: dict[str, Any] = {
        "sockets": arguments.users,
        "duration_s": arguments.duration,
        "rate": arguments.rate,
        "payload_bytes": arguments.payload,
        "workers": arguments.workers,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PROFILES[arguments.profile], **changes)


def _list(arguments: argparse.Namespace) -> int:
    print(render_table(["profile", "what it does"], [[each.name, each.description] for each in PROFILES.values()]))
    return 0
