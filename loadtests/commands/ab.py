"""loadtests ab A B: pairs of runs of two servers, each run on a fresh one, until it is known how they differ.

    loadtests ab gserver:json@origin/main gserver:json --pairs 12
    loadtests ab gserver:echo --aa            one server against itself: how much this host differs from itself

A folder holds all runs and ab.json; `loadtests compare FOLDER` reads it again. Ctrl-C compares what was made by then.
Exit status as of `loadtests compare`: 0 nothing worse, 1 worse, 2 wrong usage, or a side that does not start before any
run was made, 3 cannot tell, or not all pairs were made and nothing is worse in those; 130: no pair at Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.commands import compare as compare_command
from loadtests.commands.load_options import add_run_options, at_least, profile_of
from loadtests.comparison.noise_floor import noise_file, save_noise
from loadtests.formatting import quantity
from loadtests.host.subprocesses import START_PATIENCE_S, NotAnswering, terminated_as_interrupted
from loadtests.orchestration.quiet_host import HostBusy, await_quiet
from loadtests.orchestration.runner import Options, execute
from loadtests.results.store import ResultError, Run, could_not_write, is_kept, write_whole
from loadtests.servers.prepare import ReadySide, make_ready
from loadtests.servers.readiness import Probe
from loadtests.servers.spec import Spec, parse_spec
from loadtests.servers.target import Target, try_out
from loadtests.servers.toolchain import Missing
from loadtests.workloads.profiles import PROFILES, Profile

if TYPE_CHECKING:  # SciPy takes a second to import: other commands do without it
    from loadtests.comparison.ab_plan import Ended, Made
    from loadtests.comparison.model import Comparison
    from loadtests.inference.rank_tests import Looks

__all__ = ["add_arguments", "main"]

PAIRS = 12
#: So many runs of a side in turn are made before ab gives up that one can be believed; --force takes the first. There
#: were ten once, for the bad minutes of a noisy host. Those are waited for now, which costs no run: see quiet_host.py.
ATTEMPTS = 3
EXIT_WORSE = 1
EXIT_USAGE = 2
EXIT_CANNOT_TELL = 3
EXIT_INTERRUPTED = 130
SHOWN = ("throughput", "response_p99", "server_cpu_per_exchange")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests ab`."""
    sides = "gserver:APP[@GIT-REF][?SETTING=VALUE&...], peer:NAME, or 'cmd:COMMAND {port}'"
    parser.add_argument("a", metavar="A", help=f"a server: {sides}")
    parser.add_argument("b", metavar="B", nargs="?", help="the server to set against it; none with --aa")
    parser.add_argument("--aa", action="store_true", help="A against itself; keeps the noise of this host")
    parser.add_argument("--pairs", type=at_least(1, int), default=PAIRS, metavar="N", help=f"at most (default {PAIRS})")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of the order within the pairs (default: drawn, recorded)"
    )
    parser.add_argument("--profile", choices=PROFILES, help="(default: echo for a server of echo, else json)")
    add_run_options(parser)
    parser.add_argument("--workers", type=at_least(1, int), metavar="N", help="of gserver, where a side says none")
    parser.set_defaults(host=None)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default results)")
    parser.add_argument("--name", metavar="NAME", help="of the folder in it (default: the time and the profile)")
    compare_command.add_output_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Make the pairs, compare them, and return the exit status."""
    if arguments.aa == (arguments.b is not None):
        raise ValueError("give two servers, or one and --aa")
    specs = [parse_spec(text) for text in (arguments.a, arguments.b or arguments.a)]
    profile = profile_of(arguments, arguments.profile or specs[0].profile)
    sides = [_ready(letter, spec, profile) for letter, spec in zip("AB", specs, strict=True)]
    pairs = Pairs(
        sides, profile, _new_folder(arguments, profile), _made(arguments, sides, profile), arguments.force,
        arguments.start_timeout or START_PATIENCE_S,
    )  # fmt: skip
    pairs.make()
    if not pairs.made.pairs:
        _say(f"no pair was made: {pairs.made.why or pairs.made.ended}")
        return EXIT_INTERRUPTED if pairs.made.ended == "interrupted" else EXIT_CANNOT_TELL
    if arguments.aa:
        _keep_noise(pairs)
    status = compare_command.show_pairs(pairs.folder, arguments)
    was_cut_short = bool(pairs.made.why)
    return EXIT_CANNOT_TELL if was_cut_short and status != EXIT_WORSE else status


def _ready(letter: str, spec: Spec, profile: Profile) -> ReadySide:
    try:
        return make_ready(spec, profile, _say)
    except Missing as lack:
        raise NotAnswering(f"{letter} ({spec.text}) cannot be started: {lack}") from None


def _made(arguments: argparse.Namespace, sides: Sequence[ReadySide], profile: Profile) -> Made:
    from loadtests.comparison.ab_plan import Made

    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    # The noise of a host is known the better the more pairs there are, so none is left out.
    looks = 1 if arguments.aa else _looks(arguments.pairs, profile)
    return Made(sides[0].title, sides[1].title, seed, arguments.pairs, looks, arguments.band)


def _looks(pairs: int, profile: Profile) -> int:
    """As many as leave the last one able to call something different; a warning where none is."""
    from loadtests.comparison.ab_plan import LOOKS
    from loadtests.comparison.compare import HEADLINES, headlines_of
    from loadtests.inference.power import FIGURES, needed_pairs, needed_runs
    from loadtests.inference.rank_tests import ALPHA, most_looks, smallest_p_of_sets

    if headlines_of(profile.workload) is HEADLINES:
        looks, least = most_looks(pairs, LOOKS, FIGURES), needed_pairs(1.0, 0.0, ALPHA / FIGURES)
    else:
        looks, least = int(smallest_p_of_sets(pairs, pairs) <= ALPHA), needed_runs(1.0, 0.0, ALPHA)
    if not looks:
        _say(f"--pairs {pairs} is too few to call anything different, however far apart: it takes {least}")
    return max(1, looks)


def _new_folder(arguments: argparse.Namespace, profile: Profile) -> Path:
    """A folder that nobody else has, even if several comparisons begin in the same second."""
    results: Path = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    if arguments.name:
        named = results / str(arguments.name)
        named.mkdir()
        return named
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-ab-{profile.name}"
    for folder in [results / name, *(results / f"{name}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"{results / name}: a hundred comparisons began in this second")


def _keep_noise(pairs: Pairs) -> None:
    from loadtests.comparison.ab_plan import floor_of

    floor = floor_of(*pairs.runs)
    for path in (pairs.folder / "noise.json", noise_file(floor.workload_hash, floor.environment)):
        if not could_not_write(functools.partial(save_noise, path, floor)):
            _say(f"the noise of this host over {floor.pairs} pairs is kept in {path}")


def _say(line: str) -> None:
    """What goes on, beside the comparison, which may go into a file."""
    print(f"loadtests: {line}", file=sys.stderr, flush=True)


class CannotBeBelieved(Exception):
    """No run of a side was valid, however often it was made."""


@dataclass
class Pairs:
    """The pairs, as they are made."""

    sides: Sequence[ReadySide]
    profile: Profile
    folder: Path
    made: Made
    force: bool = False  # take runs as they are, also those that say that they cannot be believed
    start_timeout_s: float = START_PATIENCE_S
    number_made: int = 0  # of runs, those that cannot be believed too
    runs: tuple[list[Run], list[Run]] = field(default_factory=lambda: ([], []))

    def make(self) -> None:
        """Until all is settled, or there are as many as were asked for, or Ctrl-C, or it cannot go on.

        NotAnswering if a side does not start before any run was made.
        """
        _say(f"A {self.made.a}, B {self.made.b}, seed {self.made.seed}, in {self.folder}")
        try:
            self.made.ended = self._make()
        except KeyboardInterrupt:
            self.made.ended = "interrupted"
            _say("interrupted: comparing the pairs that were made")
        except CannotBeBelieved as given_up:
            self._cut_short("invalid", given_up)
        except HostBusy as busy:
            self._cut_short("busy", busy)
        except (NotAnswering, ResultError, OSError) as error:
            self._cut_short("failed", error)
            if isinstance(error, NotAnswering) and not self.number_made:
                raise
        finally:
            try:
                self._write()
            except OSError as error:  # what was written after the last pair is still there
                _say(f"{compare_command.AB_FILE} was not written: {error}")

    def _cut_short(self, ended: Ended, error: Exception) -> None:
        self.made.ended, self.made.why = ended, str(error)
        if self.made.pairs:
            _say(f"{error}; comparing the pairs that were made: {len(self.made.pairs)}")

    def _make(self) -> Ended:
        from loadtests.comparison.ab_plan import draw
        from loadtests.inference.rank_tests import Looks

        looks = Looks(self.made.max_pairs, self.made.looks)
        orders = draw(self.made.seed, self.made.max_pairs)
        self._try_out(orders[0][1])
        self._await_quiet()
        for number, order in enumerate(orders, 1):
            self._make_pair(number, order)
            if number in looks.at and number < self.made.max_pairs and self._look(looks):
                return "settled"
        return "all pairs"

    def _try_out(self, side: str) -> None:
        """The side that goes second: its run shall not be the first to find out that it does not start."""
        probe, log = Probe.of(self.profile), self.folder / f"server-{side}.log"
        with self._named(side), terminated_as_interrupted(), self._target(side) as target:
            try_out(target, probe, log, self.start_timeout_s)

    def _await_quiet(self) -> None:
        """Memory is the same on a busy host."""
        from loadtests.comparison.compare import HEADLINES, headlines_of

        if not self.force and headlines_of(self.profile.workload) is HEADLINES:
            await_quiet(_say)

    def _make_pair(self, number: int, order: str) -> None:
        made = {side: self._believable(number, side) for side in order}
        for side, runs in zip("ab", self.runs, strict=True):
            runs.append(made[side])
        self.made.order.append(order)
        self.made.pairs.append((made["a"].path.name, made["b"].path.name))
        self._write()

    def _believable(self, number: int, side: str) -> Run:
        """A valid run of a side, in a few attempts. What the server failed at is no reason for another."""
        from loadtests.comparison.ab_plan import Repeated
        from loadtests.comparison.compare import is_believable, missing_in

        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                self._await_quiet()
            again = f", attempt {attempt} of {ATTEMPTS}" if attempt > 1 else ""
            _say(f"pair {number} of {self.made.max_pairs}: {side.upper()} {self._side(side).title}{again}")
            run = self._run(side)
            if not run.verdict.is_valid:
                _say(f"  {run.verdict.state}: {' '.join(run.verdict.doubts)}")
            for shortfall in run.verdict.shortfalls:
                _say(f"  the server: {shortfall}")
            missing = missing_in(run)
            if missing:
                _say(f"  {' '.join(missing)}")
            if self.force or (is_believable(run) and not missing):
                _say(f"  {_figures(run)}")
                return run
            self.made.repeated.append(Repeated(run.path.name, side, [*run.verdict.doubts, *missing]))
        raise CannotBeBelieved(f"none of {ATTEMPTS} runs of {side.upper()} in turn can be believed")

    def _run(self, side: str) -> Run:
        label = f"{side.upper()} {self._side(side).title}"
        options = Options(start_timeout_s=self.start_timeout_s)
        with self._named(side), self._target(side) as target:
            run, interrupted = execute(self.profile, target, self.folder, label, options)
        if not is_kept(run):
            raise ResultError(f"{run.path}: the run could not be kept, so it cannot be compared")
        self.number_made += 1
        if interrupted:
            raise KeyboardInterrupt
        return run

    def _side(self, side: str) -> ReadySide:
        return self.sides["ab".index(side)]

    @contextlib.contextmanager
    def _target(self, side: str) -> Iterator[Target]:
        with tempfile.TemporaryDirectory(prefix="loadtests-") as work:
            yield self._side(side).target(Path(work))

    @contextlib.contextmanager
    def _named(self, side: str) -> Iterator[None]:
        """Within it, what a run or a trial fails at is reported with its side."""
        try:
            yield
        except (NotAnswering, ResultError) as error:
            raise type(error)(f"{side.upper()} ({self._side(side).title}): {error}") from None

    def _look(self, looks: Looks) -> bool:
        from loadtests.comparison.ab_plan import is_settled, unsettled

        comparison = self._compared(looks)
        left, of = len(unsettled(comparison)), len(comparison.headlines)
        _say(f"after {len(self.made.pairs)} pairs {of - left} of {of} figures are settled")
        return is_settled(comparison)

    def _compared(self, looks: Looks) -> Comparison:
        from loadtests.comparison.compare import compare, plan_of_pairs
        from loadtests.comparison.model import Side

        a, b = (Side(title, tuple(runs)) for title, runs in zip((self.made.a, self.made.b), self.runs, strict=True))
        plan = plan_of_pairs(self.profile.workload, self.made.band, looks.alpha_at(len(self.made.pairs)))
        return compare(a, b, plan)

    def _write(self) -> None:
        write_whole(self.folder / compare_command.AB_FILE, self.made.to_json())


def _figures(run: Run) -> str:
    found = [(name, figure) for name in SHOWN if (figure := run.headline(name))]
    return ", ".join(f"{name.replace('_', ' ')} {quantity(figure.value, figure.unit)}" for name, figure in found)
