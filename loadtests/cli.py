"""loadtests run | worker | report | compare | sample | doctor | ab | history | list.

Exit status:
  0    success
  1    the command found something bad: exchanges failed (run), B is worse (compare, ab), a limit is too low (doctor),
       sampling cannot go on (sample)
  2    the command could not do its work: a wrong argument, a package that is not installed, a server that does not
       reply, a folder that cannot be read or written, an error in loadtests itself
  3    the figures cannot be believed, or the comparison is inconclusive
  130  Ctrl-C

The module of a command is imported only when the command runs, so that no command needs the packages of another.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from loadtests.errors import ResultError, cause_of
from loadtests.exit_status import EXIT_INTERRUPTED, EXIT_USAGE
from loadtests.host.subprocesses import NotAnswering
from loadtests.optional_packages import Extra, MissingPackage, needs, require
from loadtests.standard_streams import open_streams

__all__ = ["entry_point", "main"]

#: Packages that the Locust processes and the report of a run import.
SWARM = ("locust", "psutil", "hdrh", "scipy")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        help: its line in `loadtests --help`.
        module: has add_arguments(parser) and main(arguments), which returns the exit status.
        extra: the extra of gserver-tcp with the packages that it needs.
        later: packages that it needs late or in another process; they are looked for before it begins.
    """

    help: str
    module: str
    extra: Extra = "loadtests"
    later: tuple[str, ...] = ()


COMMANDS = {
    "run": Command("run a profile on a server, and keep the run in a folder", "loadtests.commands.run", later=SWARM),
    "worker": Command("join the swarm of a run on another host", "loadtests.commands.worker", later=SWARM),
    "report": Command("report on runs: text, HTML page, pictures", "loadtests.commands.report"),
    "compare": Command("compare runs: better, worse, or equivalent", "loadtests.commands.compare"),
    "sample": Command("sample a server for a run on another host", "loadtests.commands.sample", extra="sampler"),
    "doctor": Command("check what this host can hold, and which limits to raise", "loadtests.commands.doctor"),
    "ab": Command("compare two servers by pairs of runs", "loadtests.commands.ab", later=SWARM),
    "history": Command("show runs as trends with change points", "loadtests.commands.history"),
    "list": Command("show the profiles", "loadtests.commands.list"),
}


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`, without the program's name; return the exit status."""
    if not argv or argv[0] not in COMMANDS:
        _overview().parse_args(argv)  # prints the help or an error, and exits
    name = argv[0]
    try:
        with needs(COMMANDS[name].extra):
            return _run(name, argv[1:])
    except MissingPackage as error:
        print(f"loadtests {name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (ResultError, NotAnswering, OSError, ValueError) as error:
        print(f"loadtests: {cause_of(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("loadtests: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def entry_point() -> NoReturn:
    """Run the command `loadtests` and exit. If output is lost, the status is never 0."""
    output = open_streams()
    try:
        status = main(sys.argv[1:])
    except Exception:  # Python's own exit status for it is 1, which means "worse" to a pipeline
        traceback.print_exc()
        status = EXIT_USAGE
    sys.stdout.flush()
    if output.loss:
        print(f"loadtests: standard output: {output.loss}", file=sys.stderr)
        status = status or EXIT_USAGE
    sys.exit(status)


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loadtests",
        description="Load tests for TCP servers with Locust, and comparisons of their runs.",
        epilog="`loadtests COMMAND --help` shows the options of a command.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def _run(name: str, argv: Sequence[str]) -> int:
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(prog=f"loadtests {name}")
    module.add_arguments(parser)
    arguments = parser.parse_args(argv)
    require(*command.later)
    status: int = module.main(arguments)
    return status
