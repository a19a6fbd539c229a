"""loadtests ab A B: compares two servers by pairs of runs, until every headline figure has its verdict.

    loadtests ab gserver:json@origin/main gserver:json --pairs 12
    loadtests ab gserver:echo --aa            one server against itself: measures the noise floor of this host

A folder gets all runs and ab.json; `loadtests compare FOLDER` reads it again. Ctrl-C compares the pairs made so far.
Exit status as of `loadtests compare`: 0 nothing is worse; 1 B is worse; 2 wrong usage, or a server does not start
before any run was made; 3 inconclusive, or not all pairs were made and nothing is worse in those; 130 Ctrl-C before the
first pair.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.commands import compare as compare_command
from loadtests.commands.load_options import (
    LoadOptions,
    add_load_options,
    add_start_timeout,
    at_least,
    changed_profile,
    load_options,
    profile_names,
)
from loadtests.exit_status import EXIT_FAILURE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED
from loadtests.host.subprocesses import START_PATIENCE_S, NotAnswering
from loadtests.orchestration.ab_runner import DEFAULT_ATTEMPTS, AbRunner, looks_for, notify
from loadtests.servers.prepare import PreparedServer, prepare_server
from loadtests.servers.spec import Spec, parse_spec
from loadtests.servers.toolchain import Missing
from loadtests.workloads.profiles import PROFILES, Profile

if TYPE_CHECKING:  # SciPy takes a second to import: other commands do without it
    from loadtests.comparison.ab_plan import AbRecord

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Compare two servers by pairs of runs, until every headline figure has its verdict."
DEFAULT_PAIRS = 12


@dataclass(frozen=True)
class AbRequest:
    """The arguments of `loadtests ab`.

    Attributes:
        specs: A's and B's server; the same one twice with --aa.
        profile: the name of a profile; None: chosen by A's server.
        workers: of a gserver without workers in its spec; None: those of the profile.
        attempts: runs of a side in a row, until one is valid.
        seed: of the order within the pairs; None: drawn.
        name: of the folder in `results`; None: time and profile.
    """

    specs: tuple[Spec, Spec]
    is_aa: bool
    profile: str | None
    load: LoadOptions
    workers: int | None
    pairs: int
    attempts: int
    seed: int | None
    start_timeout_s: float
    results: Path
    name: str | None
    output: compare_command.OutputOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests ab`."""
    parser.usage, parser.description = "%(prog)s [options] A B\n       %(prog)s [options] --aa A", DESCRIPTION
    specs = "gserver:APP[@GIT-REF][?SETTING=VALUE&...], peer:NAME, or 'cmd:COMMAND {port}'"
    parser.add_argument("a", metavar="A", help=f"the first server: {specs}")
    parser.add_argument("b", metavar="B", nargs="?", help="the second server, in the same form; left out with --aa")
    plan = parser.add_argument_group("plan")
    plan.add_argument(
        "--aa", action="store_true", help="run A against itself, and keep the result as the noise floor of this host"
    )
    plan.add_argument(
        "--pairs", type=at_least(1, int), default=DEFAULT_PAIRS, metavar="N",
        help=f"the maximum number of pairs (default {DEFAULT_PAIRS})",
    )  # fmt: skip
    plan.add_argument(
        "--attempts", type=at_least(1, int), default=DEFAULT_ATTEMPTS, metavar="N",
        help=f"how often a run is made until it is valid; then the pairs end (default {DEFAULT_ATTEMPTS})",
    )  # fmt: skip
    plan.add_argument(
        "--seed", type=int, metavar="N", help="seed of the order within the pairs (default: random, and recorded)"
    )
    plan.add_argument(
        "--profile", choices=PROFILES, metavar="NAME",
        help=f"{profile_names()} (default: echo if A is an echo server, else json)",
    )  # fmt: skip
    add_load_options(parser)
    servers = parser.add_argument_group("servers")
    servers.add_argument(
        "--workers", type=at_least(1, int), metavar="N", help="workers of a gserver, if its spec does not set them"
    )
    add_start_timeout(servers)
    results = parser.add_argument_group("results")
    results.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="parent of the new folder (default results)",
    )
    results.add_argument(
        "--name", metavar="NAME", help="name of the new folder in it (default: the time and the profile)"
    )
    compare_command.add_output_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Make the pairs, compare them, and return the exit status."""
    if arguments.aa == (arguments.b is not None):
        raise ValueError("give two servers, or one and --aa")
    return _run(
        AbRequest(
            specs=(parse_spec(arguments.a), parse_spec(arguments.b or arguments.a)),
            is_aa=arguments.aa,
            profile=arguments.profile,
            load=load_options(arguments),
            workers=arguments.workers,
            pairs=arguments.pairs,
            attempts=arguments.attempts,
            seed=arguments.seed,
            start_timeout_s=arguments.start_timeout or START_PATIENCE_S,
            results=arguments.results,
            name=arguments.name,
            output=compare_command.output_options(arguments),
        )
    )


def _run(request: AbRequest) -> int:
    profile = changed_profile(request.profile or request.specs[0].profile, request.load, request.workers)
    sides = [_prepared(letter, spec, profile) for letter, spec in zip("AB", request.specs, strict=True)]
    folder = _new_folder(request.results, request.name, profile)
    record = _new_record(request, sides, profile)
    runner = AbRunner(sides, profile, folder, record, request.attempts, request.output.force, request.start_timeout_s)
    runner.make_pairs()
    if not record.pairs:
        notify(f"no pair was made: {record.why or record.ended}")
        return EXIT_INTERRUPTED if record.ended == "interrupted" else EXIT_INCONCLUSIVE
    if request.is_aa:
        runner.keep_noise()
    status = compare_command.show_pairs(folder, request.output)
    return EXIT_INCONCLUSIVE if record.why and status != EXIT_FAILURE else status


def _prepared(letter: str, spec: Spec, profile: Profile) -> PreparedServer:
    try:
        return prepare_server(spec, profile, notify)
    except Missing as error:
        raise NotAnswering(f"{letter} ({spec.text}) cannot be started: {error}") from None


def _new_record(request: AbRequest, sides: Sequence[PreparedServer], profile: Profile) -> AbRecord:
    from loadtests.comparison.ab_plan import AbRecord

    seed = random.SystemRandom().randrange(2**32) if request.seed is None else request.seed
    # Each pair makes the noise floor more exact, so --aa makes all of them.
    looks = 1 if request.is_aa else looks_for(request.pairs, profile)
    return AbRecord(sides[0].title, sides[1].title, seed, request.pairs, looks, request.output.band)


def _new_folder(results: Path, name: str | None, profile: Profile) -> Path:
    """Create a folder; its name is unique even if several comparisons start in the same second."""
    results.mkdir(parents=True, exist_ok=True)
    if name:
        named = results / name
        named.mkdir()
        return named
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-ab-{profile.name}"
    for folder in [results / name, *(results / f"{name}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"{results / name}: a hundred comparisons began in this second")
