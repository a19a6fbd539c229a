"""Makes the pairs of `loadtests ab`, each run on a fresh server, until every headline figure has its verdict."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.comparison.noise_floor import noise_file, save_noise
from loadtests.formatting import quantity
from loadtests.host.subprocesses import START_PATIENCE_S, NotAnswering, terminated_as_interrupted
from loadtests.orchestration.quiet_host import HostBusy, await_quiet
from loadtests.orchestration.runner import Options, execute
from loadtests.results.store import ResultError, Run, could_not_write, is_kept, write_whole
from loadtests.servers.prepare import PreparedServer
from loadtests.servers.readiness import Probe
from loadtests.servers.target import Target, try_out
from loadtests.workloads.profiles import Profile

if TYPE_CHECKING:  # SciPy takes a second to import: other commands do without it
    from loadtests.comparison.ab_plan import AbRecord, Ended
    from loadtests.comparison.model import Comparison
    from loadtests.inference.rank_tests import Looks

__all__ = ["DEFAULT_ATTEMPTS", "AbRunner", "looks_for", "notify"]

#: Where half of the runs are not valid, three in a row are not once in eight times: then 9 pairs need more attempts.
DEFAULT_ATTEMPTS = 3
SHOWN = ("throughput", "response_p99", "server_cpu_per_exchange")


def notify(line: str) -> None:
    """Print a line of progress on standard error: standard output has the comparison, and may be a file."""
    print(f"loadtests: {line}", file=sys.stderr, flush=True)


def looks_for(pairs: int, profile: Profile) -> int:
    """How often to compare the pairs made so far, so that the last comparison can still find a difference; at least 1.

    Warns if `pairs` is too few to find any difference.
    """
    from loadtests.comparison.ab_plan import LOOKS
    from loadtests.comparison.compare import HEADLINES, headlines_of
    from loadtests.inference.power import FIGURES, needed_pairs, needed_runs
    from loadtests.inference.rank_tests import ALPHA, most_looks, smallest_p_of_sets

    if headlines_of(profile.workload) is HEADLINES:
        looks, least = most_looks(pairs, LOOKS, FIGURES), needed_pairs(1.0, 0.0, ALPHA / FIGURES)
    else:
        looks, least = int(smallest_p_of_sets(pairs, pairs) <= ALPHA), needed_runs(1.0, 0.0, ALPHA)
    if not looks:
        notify(f"--pairs {pairs} is too few to detect any difference, however large: at least {least} are needed")
    return max(1, looks)


class NoValidRun(Exception):
    """None of several runs of a side in a row was valid."""


@dataclass
class AbRunner:
    """Makes the pairs, and keeps ab.json up to date.

    Attributes:
        folder: an existing folder for the runs and ab.json.
        record: the content of ab.json, with the plan filled in.
        attempts: runs of one side in a row, until one is valid.
        force: take runs that are not valid, and do not wait for a quiet host.
        start_timeout_s: how long each server may take until it replies.
        number_made: runs so far, those that are not valid included.
        runs: A's and B's runs, in pairs.
    """

    sides: Sequence[PreparedServer]
    profile: Profile
    folder: Path
    record: AbRecord
    attempts: int = DEFAULT_ATTEMPTS
    force: bool = False
    start_timeout_s: float = START_PATIENCE_S
    number_made: int = 0
    runs: tuple[list[Run], list[Run]] = field(default_factory=lambda: ([], []))

    def make_pairs(self) -> None:
        """Make pairs until all figures are settled, all pairs are made, Ctrl-C, or an error.

        `record.ended` and `record.why` are set. NotAnswering if a server does not start before any run was made.
        """
        notify(f"A {self.record.a}, B {self.record.b}, seed {self.record.seed}, in {self.folder}")
        try:
            self.record.ended = self._make_pairs()
        except KeyboardInterrupt:
            self.record.ended = "interrupted"
            notify("interrupted: comparing the pairs that were made")
        except NoValidRun as error:
            self._cut_short("invalid", error)
        except HostBusy as error:
            self._cut_short("busy", error)
        except (NotAnswering, ResultError, OSError) as error:
            self._cut_short("failed", error)
            if isinstance(error, NotAnswering) and not self.number_made:
                raise
        finally:
            try:
                self._write()
            except OSError as error:  # the file that was written after the last pair is still there
                notify(f"ab.json was not written: {error}")

    def keep_noise(self) -> None:
        """Keep the noise floor of this host, after pairs of a server against itself: in the folder and in the cache."""
        from loadtests.comparison.ab_plan import floor_of

        floor = floor_of(*self.runs)
        for path in (self.folder / "noise.json", noise_file(floor.workload_hash, floor.environment)):
            if not could_not_write(functools.partial(save_noise, path, floor)):
                notify(f"the noise floor of this host over {floor.pairs} pairs is kept in {path}")

    def _cut_short(self, ended: Ended, error: Exception) -> None:
        self.record.ended, self.record.why = ended, str(error)
        if self.record.pairs:
            notify(f"{error}; comparing the pairs that were made: {len(self.record.pairs)}")

    def _make_pairs(self) -> Ended:
        from loadtests.comparison.ab_plan import draw
        from loadtests.inference.rank_tests import Looks

        assert self.record.max_pairs is not None
        assert self.record.seed is not None
        looks = Looks(self.record.max_pairs, self.record.looks)
        orders = draw(self.record.seed, self.record.max_pairs)
        self._try_out(orders[0][1])
        self._await_quiet()
        for number, order in enumerate(orders, 1):
            self._make_pair(number, order)
            if number in looks.at and number < self.record.max_pairs and self._is_settled(looks):
                return "settled"
        return "all pairs"

    def _try_out(self, side: str) -> None:
        """Start the server of the second run once: if it does not start, the first run would be wasted."""
        probe, log = Probe.of(self.profile), self.folder / f"server-{side}.log"
        with self._named(side), terminated_as_interrupted(), self._target(side) as target:
            try_out(target, probe, log, self.start_timeout_s)

    def _await_quiet(self) -> None:
        """Not for a comparison of memory: a busy host does not change it."""
        from loadtests.comparison.compare import HEADLINES, headlines_of

        if not self.force and headlines_of(self.profile.workload) is HEADLINES:
            await_quiet(notify)

    def _make_pair(self, number: int, order: str) -> None:
        made = {side: self._valid_run(number, side) for side in order}
        for side, runs in zip("ab", self.runs, strict=True):
            runs.append(made[side])
        self.record.order.append(order)
        self.record.pairs.append((made["a"].path.name, made["b"].path.name))
        self._write()

    def _valid_run(self, number: int, side: str) -> Run:
        """Run a side, at most `attempts` times, until a run is valid. A server that falls short is not run again."""
        from loadtests.comparison.ab_plan import Repeated
        from loadtests.comparison.compare import is_believable, missing_in

        for attempt in range(1, self.attempts + 1):
            if attempt > 1:
                self._await_quiet()
            again = f", attempt {attempt} of {self.attempts}" if attempt > 1 else ""
            notify(f"pair {number} of {self.record.max_pairs}: {side.upper()} {self._side(side).title}{again}")
            run = self._run(side)
            if not run.verdict.is_valid:
                notify(f"  {run.verdict.state}: {' '.join(run.verdict.doubts)}")
            for shortfall in run.verdict.shortfalls:
                notify(f"  the server: {shortfall}")
            missing = missing_in(run)
            if missing:
                notify(f"  {' '.join(missing)}")
            if self.force or (is_believable(run) and not missing):
                notify(f"  {_figures(run)}")
                return run
            self.record.repeated.append(Repeated(run.path.name, side, [*run.verdict.doubts, *missing]))
        raise NoValidRun(f"none of {self.attempts} runs of {side.upper()} in a row was valid")

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

    def _side(self, side: str) -> PreparedServer:
        return self.sides["ab".index(side)]

    @contextlib.contextmanager
    def _target(self, side: str) -> Iterator[Target]:
        with tempfile.TemporaryDirectory(prefix="loadtests-") as work:
            yield self._side(side).target(Path(work))

    @contextlib.contextmanager
    def _named(self, side: str) -> Iterator[None]:
        """Put the side in front of the error of a run or a trial."""
        try:
            yield
        except (NotAnswering, ResultError) as error:
            raise type(error)(f"{side.upper()} ({self._side(side).title}): {error}") from None

    def _is_settled(self, looks: Looks) -> bool:
        from loadtests.comparison.ab_plan import is_settled, unsettled

        comparison = self._comparison(looks)
        left, of = len(unsettled(comparison)), len(comparison.headlines)
        notify(f"after {len(self.record.pairs)} pairs {of - left} of {of} figures are settled")
        return is_settled(comparison)

    def _comparison(self, looks: Looks) -> Comparison:
        from loadtests.comparison.compare import compare, plan_of_pairs
        from loadtests.comparison.model import Side

        assert self.record.band is not None
        a, b = (Side(title, tuple(runs)) for title, runs in zip((self.record.a, self.record.b), self.runs, strict=True))
        plan = plan_of_pairs(self.profile.workload, self.record.band, looks, len(self.record.pairs))
        return compare(a, b, plan)

    def _write(self) -> None:
        from loadtests.comparison.ab_plan import AB_FILE

        write_whole(self.folder / AB_FILE, self.record.to_json())


def _figures(run: Run) -> str:
    found = [(name, figure) for name in SHOWN if (figure := run.headline(name))]
    return ", ".join(f"{name.replace('_', ' ')} {quantity(figure.value, figure.unit)}" for name, figure in found)
