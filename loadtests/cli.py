"""loadtests run | worker | sample | doctor | report | compare | list.

Exit status: 0; 1 if something failed; 2 for a wrong argument; 3 if nothing failed, but the figures cannot be believed;
130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from loadtests import ab_command, compare_command, doctor, history_command, sampler
from loadtests.address import is_tls, parse_host
from loadtests.processes import NotAnswering
from loadtests.profiles import PROFILES, Profile
from loadtests.report import command as report_command
from loadtests.report import render_summary
from loadtests.results import ResultError
from loadtests.run_options import add_run_options, at_least, existing, profile_of
from loadtests.runner import Options, Target, execute
from loadtests.text import render_table
from loadtests.worker import MASTER_PORT, work

__all__ = ["entry_point", "main"]

EXIT_FAILURES = 1
EXIT_USAGE = 2
EXIT_DOUBTFUL = 3
EXIT_INTERRUPTED = 130
#: Commands that read their arguments themselves.
OF_THEIR_OWN: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "sample": (sampler.main, "sample a server for a run on another host"),
    "doctor": (doctor.main, "say what this host can hold, and what to raise"),
}


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says; return the exit status."""
    if argv and argv[0] in OF_THEIR_OWN:
        return OF_THEIR_OWN[argv[0]][0](argv[1:])
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
    _add_worker(commands.add_parser("worker", help="be a part of the swarm of a run on another host"))
    report = commands.add_parser("report", help="report on runs: in words, as a page, as pictures")
    report_command.add_arguments(report)
    report.set_defaults(do=report_command.main)
    comparing = commands.add_parser("compare", help="set runs against others, and say what that proves")
    compare_command.add_arguments(comparing)
    comparing.set_defaults(do=compare_command.main)
    for name, (_, says) in OF_THEIR_OWN.items():
        commands.add_parser(name, help=says)
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
    add_run_options(run)
    server = run.add_argument_group("the server")
    server.add_argument("--workers", type=at_least(1, int), metavar="N", help="of the one that is started, at least")
    server.add_argument("--host", metavar="tcp://HOST:PORT", help="test one that runs already; also tls://HOST:PORT")
    server.add_argument("--server-pid", type=at_least(1, int), metavar="PID", help="its process, to sample it")
    server.add_argument("--stats-socket", metavar="PATH", help="what gserver's --stats-socket is")
    server.add_argument(
        "--sampler", type=_address, metavar="HOST:PORT", help="a `loadtests sample --listen` on its machine"
    )
    swarm = run.add_argument_group("the swarm")
    swarm.add_argument(
        "--processes", type=at_least(1, int), default=0, metavar="N", help="(default: as many as it takes)"
    )
    swarm.add_argument("--no-pin", action="store_true", help="leave server and swarm on all cores")
    swarm.add_argument("--master", action="store_true", help="swarm from other hosts: `loadtests worker` on each")
    swarm.add_argument(
        "--bind", type=_address, default=("0.0.0.0", MASTER_PORT), metavar="HOST:PORT",
        help=f"where they find this one (default 0.0.0.0:{MASTER_PORT})",
    )  # fmt: skip
    swarm.add_argument("--expect-workers", type=at_least(1, int), default=1, metavar="N", help="how many there are")
    run.add_argument("--label", default="", metavar="TEXT", help="what this run is about")
    run.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default results)")
    run.set_defaults(do=_run)


def _add_worker(worker: argparse.ArgumentParser) -> None:
    worker.add_argument(
        "--master", type=_address, required=True, metavar="HOST[:PORT]", help=f"of the run (default port {MASTER_PORT})"
    )
    worker.add_argument("--processes", type=at_least(1, int), default=1, metavar="N", help="(default 1)")
    worker.add_argument("--file", type=Path, metavar="FILE", help="the Locust file that the run was given")
    worker.set_defaults(do=_worker)


def _address(text: str) -> tuple[str, int]:
    """HOST:PORT, [V6]:PORT, or HOST with the port of a master."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") and text.count(":") else (text, "", "")
    number = int(port) if port.isascii() and port.isdigit() else MASTER_PORT if not colon else 0
    if not host or not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}, must be HOST:PORT or [V6]:PORT")
    return host.strip("[]"), number


def _run(arguments: argparse.Namespace) -> int:
    profile, target = profile_of(arguments, arguments.profile), _target(arguments)
    options = Options(
        pin=not arguments.no_pin,
        processes=arguments.processes,
        master=arguments.bind if arguments.master else None,
        expect_workers=arguments.expect_workers,
    )
    run, interrupted = execute(profile, target, arguments.results, arguments.label, options)
    print(f"\n{render_summary(run)}\n\n  run     {run.path}\n  report  {run.path / 'report.md'}")
    if interrupted:
        return EXIT_INTERRUPTED
    if run.errors:
        return EXIT_FAILURES
    return 0 if run.verdict.is_valid else EXIT_DOUBTFUL


def _worker(arguments: argparse.Namespace) -> int:
    return work(arguments.master, arguments.processes, existing(arguments.file))


def _target(arguments: argparse.Namespace) -> Target | None:
    if not arguments.host:
        for option in ("server_pid", "stats_socket", "sampler"):
            if getattr(arguments, option):
                name = f"--{option.replace('_', '-')}"
                raise ValueError(f"{name} says how to sample what runs at --host, and there is no --host")
        return None
    return Target(
        parse_host(arguments.host),
        pid=arguments.server_pid,
        sampler=arguments.sampler,
        stats_socket=arguments.stats_socket,
        scheme="tls" if is_tls(arguments.host) else "tcp",
    )


def _list(arguments: argparse.Namespace) -> int:
    rows = [
        [each.name, each.description, each.tells, f"{each.sockets:,}", _rate(each), f"{each.total_s:,.0f} s"]
        for each in PROFILES.values()
    ]
    print(render_table(["profile", "what it does", "what it tells", "sockets", "exchanges/s", "takes"], rows))
    return 0


def _rate(profile: Profile) -> str:
    return f"{profile.sockets * profile.rate:,.0f}" if profile.rate else "as fast as answered"
