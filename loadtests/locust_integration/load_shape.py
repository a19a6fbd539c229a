"""The load shape of a run: `locust -f LOCUSTFILE,load_shape.py --plan FILE --phases FILE`.

Locust calls tick() once a second for the number of users, which is that of the plan's present stage. The position in
the plan and the steps of a search are written to the file of phases each second, so that they are known even if this
process is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import signal
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust import LoadTestShape, events
from locust.env import Environment

from loadtests.locust_integration import compat
from loadtests.locust_integration.compat import LocustArgumentParser, MasterRunner, Runner, WorkerRunner
from loadtests.locust_integration.recorder import RECORDER
from loadtests.locust_integration.worker_join import await_workers, is_worker_missing
from loadtests.recording.recording import OK, failures
from loadtests.results.store import write_whole
from loadtests.workloads.profiles import Plan
from loadtests.workloads.stages import COOLDOWN, MEASURE, RAMP, WARMUP, Course, Search, Stage, Step

__all__ = ["Steering"]

# From the end of a ramp until a step of a search is measured.
SETTLE_S = 2
# After how long a silence a worker is missing, instead of Locust's three seconds. A worker that starts thousands of
# users may be silent for longer; and a network that fails for three seconds is silent for six, because TCP doubles the
# time between its attempts. If the last worker is missing, Locust ends the run.
SILENCE_S, USERS_STARTED_PER_S = 8, 5000
# Workers report every three seconds.
REPORTS_S = 4
# If all users were started, and their number has stayed below the target for so long, the others have ended.
ENDED_S = 8

compat.count_users_of_one_class_quickly()


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", default="", help="The stages of a run, as JSON", include_in_web_ui=False)
    parser.add_argument("--phases", default="", help="Write the present stage to this file", include_in_web_ui=False)


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    """Let TERM end the run early, as Ctrl-C does: Locust itself ends at TERM only after the last stage."""
    runner, options = environment.runner, environment.parsed_options
    if not isinstance(runner, WorkerRunner):
        main: Any = gevent.get_hub().parent
        gevent.signal_handler(signal.SIGTERM, lambda: main.throw(KeyboardInterrupt()))
    if isinstance(runner, MasterRunner):
        assert options is not None
        compat.keep_users_in_place(environment)
        await_workers(runner, options.expect_workers, options.expect_workers_max_wait)


@events.spawning_complete.add_listener
def _freeze(**_: Any) -> None:
    """Exclude the users from garbage collection: they stay, and a pass over all of them would delay every exchange."""
    gc.collect()
    gc.freeze()


class Steering(LoadTestShape):
    """Follows the plan in the file that --plan names."""

    use_common_options = True  # --users and --spawn-rate are used elsewhere, and Locust must not warn about them

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._course: Course | None = None
        self._search: Search | None = None
        self._steps: list[Step] = []
        self._users_seen, self._seen_at = -1, 0  # the number of users, and the second in which it last changed

    def tick(self) -> tuple[int, float] | None:
        """The number of users to reach, and how many to start a second; None at the end of the plan."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        if self._course is None:
            self._begin(msgspec.json.decode(Path(options.plan).read_bytes(), type=Plan))
        assert self._course is not None
        second = RECORDER.now_s()
        users = self._users(self.runner, second)
        stage = self._course.at(second, users)
        while stage is None and self._search is not None:
            self._add_next_step(self._search)
            stage = self._course.at(second, users)
        self._write_phases(Path(options.phases), stage)
        return None if stage is None else (stage.sockets, stage.sockets_per_s)

    def _users(self, runner: Runner, second: int) -> int:
        """How many users were started so far.

        Users of a lost worker count, because they are not started again. So do users that ended because their code
        raised in on_start().
        """
        is_short = isinstance(runner, MasterRunner) and is_worker_missing(runner)
        if runner.user_count != self._users_seen:
            self._users_seen, self._seen_at = runner.user_count, second
        if compat.has_started_all_users(runner) and (is_short or second - self._seen_at >= ENDED_S):
            return runner.target_user_count
        return runner.user_count

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        self._course = Course(plan.stages)
        users = max([plan.sockets, *(stage.sockets for stage in plan.stages)])
        compat.set_worker_silence_s(SILENCE_S + users // USERS_STARTED_PER_S)
        if plan.objective is not None:
            self._search = Search(plan.first, plan.sockets)
            self._course.add(*self._step_of(plan.first))

    def _step_of(self, sockets: int) -> list[Stage]:
        """The stages of one step of a search."""
        hold_s = SETTLE_S + self._plan.step_s + REPORTS_S
        return [Stage(RAMP, sockets, self._plan.sockets_per_s, hold_s)]

    def _add_next_step(self, search: Search) -> None:
        """Judge the step that has ended; add the next one, or the measurement after the last step."""
        assert self._course is not None
        end = self._course.phases[RAMP][1] - REPORTS_S
        step = self._judged(end - self._plan.step_s, end)
        self._steps.append(step)
        search.take(step.sockets, not step.broken)
        following = search.next()
        if following is not None:
            self._course.add(*self._step_of(following))
            return
        self._search = None
        if search.best:
            rate, plan = self._plan.sockets_per_s, self._plan
            self._course.add(
                Stage(WARMUP, search.best, rate, SETTLE_S),
                Stage(MEASURE, search.best, rate, plan.measure_s),
                Stage(COOLDOWN, search.best, rate, 1),
            )

    def _judged(self, start: int, end: int) -> Step:
        recording = RECORDER.merged
        cell = recording.total(recording.exchange_series(), start, end)
        failed = sum(map(failures, recording.attempts(start, end).values()))
        tried = cell.outcomes[OK] + failed
        assert self._plan.objective is not None
        assert self.runner is not None
        sockets = self.runner.user_count
        step = Step(
            sockets,
            sockets * self._plan.rate,
            (recording.ticks(start, end) if self._plan.per_task else cell.done) / (end - start),
            cell.latency.all.percentiles([99]).get(99, 0) / 1e6,
            100 * failed / tried if tried else 100.0,
        )
        return dataclasses.replace(step, broken=self._plan.objective.broken(step))

    def _write_phases(self, path: Path, stage: Stage | None) -> None:
        assert self._course is not None
        phases = {
            "phase": stage.phase if stage else "",
            "sockets": stage.sockets if stage else 0,
            "phases": self._course.phases,
            "steps": [dataclasses.asdict(step) for step in self._steps],
        }
        with contextlib.suppress(OSError):  # no room: the file stays as it is, and the run goes on
            write_whole(path, json.dumps(phases))
