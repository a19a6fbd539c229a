"""loadtests run | worker | report | compare | sample | doctor | ab | history | list.

Exit status: 0; 1 is what a command has found: exchanges failed (run), B is worse (compare, ab), something is short
(doctor), it cannot go on (sample); 2 if it could not be carried out: a wrong argument, a package that is not installed,
a server that does not answer, a folder that cannot be read or written, an error in loadtests itself; 3 if the figures
cannot be believed, or do not tell; 130 for Ctrl-C.

The module of a command is imported when the command is chosen, so that no command needs more packages than it uses.
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
from loadtests.host.subprocesses import NotAnswering
from loadtests.optional_packages import Extra, MissingPackage, needs, require
from loadtests.standard_streams import open_streams

__all__ = ["entry_point", "main"]

EXIT_NOT_CARRIED_OUT = 2
EXIT_INTERRUPTED = 130
#: What Locust's process and the report of a run import.
SWARM = ("locust", "psutil", "hdrh", "scipy")


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        help: what it is for.
        module: has add_arguments(parser) and main(arguments); both mains return the exit status.
        reads_argv: the module has main(argv) instead, and reads its arguments itself.
        extra: what it needs.
        later: packages that it needs after much work, or in another process: looked for before it begins.
    """

    help: str
    module: str
    reads_argv: bool = False
    extra: Extra = "loadtests"
    later: tuple[str, ...] = ()


COMMANDS = {
    "run": Command("carry out a run and keep it in a folder", "loadtests.commands.run", later=SWARM),
    "worker": Command("be a part of the swarm of a run on another host", "loadtests.commands.worker", later=SWARM),
    "report": Command("report on runs: in words, as a page, as pictures", "loadtests.commands.report"),
    "compare": Command("set runs against others, and say what that proves", "loadtests.commands.compare"),
    "sample": Command(
        "sample a server for a run on another host", "loadtests.sampling.sampler", reads_argv=True, extra="sampler"
    ),
    "doctor": Command("say what this host can hold, and what to raise", "loadtests.commands.doctor", reads_argv=True),
    "ab": Command(
        "run two servers in turns, in pairs, until it is known how they differ", "loadtests.commands.ab", later=SWARM
    ),
    "history": Command("show the runs below a folder as trends, and what changed", "loadtests.commands.history"),
    "list": Command("show the profiles", "loadtests.commands.list"),
}


def main(argv: Sequence[str]) -> int:
    """Do what `argv` says; return the exit status."""
    if not argv or argv[0] not in COMMANDS:
        _overview().parse_args(argv)  # prints the help, or what is wrong, and ends the process
    name = argv[0]
    try:
        with needs(COMMANDS[name].extra):
            return _carry_out(name, argv[1:])
    except MissingPackage as lack:
        print(f"loadtests {name}: {lack}", file=sys.stderr)
        return EXIT_NOT_CARRIED_OUT
    except (ResultError, NotAnswering, OSError, ValueError) as error:
        print(f"loadtests: {cause_of(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return EXIT_NOT_CARRIED_OUT
    except KeyboardInterrupt:
        print("loadtests: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def entry_point() -> NoReturn:
    """The command `loadtests`. Output that was lost makes a status of 0 that of a failure."""
    output = open_streams()
    try:
        status = main(sys.argv[1:])
    except Exception:  # Python's own status for it is 1, which would be a finding
        traceback.print_exc()
        status = EXIT_NOT_CARRIED_OUT
    sys.stdout.flush()
    if output.loss:
        print(f"loadtests: standard output: {output.loss}", file=sys.stderr)
        status = status or EXIT_NOT_CARRIED_OUT
    sys.exit(status)


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests", description="Put a swarm on a TCP server, and compare the runs.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def _carry_out(name: str, argv: Sequence[str]) -> int:
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    status: int
    if command.reads_argv:
        status = module.main(argv)
    else:
        parser = argparse.ArgumentParser(prog=f"loadtests {name}")
        module.add_arguments(parser)
        arguments = parser.parse_args(argv)
        require(*command.later)
        status = module.main(arguments)
    return status
