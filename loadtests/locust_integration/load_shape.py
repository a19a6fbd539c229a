"""The shape of a run for Locust: `locust -f LOCUSTFILE,load_shape.py --plan FILE --phases FILE`.

Locust asks once a second how many users there are to be; the answer is the plan's stage. Where a run is, and what a
search has tried, is in the file of phases, which is written anew each second: what is known then is known whatever
happens to this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import signal
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust import LoadTestShape, argument_parser, events, runners
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.locust_integration.recorder import RECORDER
from loadtests.locust_integration.worker_join import await_workers, is_anyone_lost, keep_still
from loadtests.recording.recording import OK, failures
from loadtests.results.store import write_whole
from loadtests.workloads.profiles import Plan
from loadtests.workloads.stages import COOLDOWN, MEASURE, RAMP, WARMUP, Course, Search, Stage, Step

__all__ = ["Steering"]

# After a climb, before a step of a search is judged.
SETTLE_S = 2
# A worker that has thousands of users to start may be silent for longer than Locust's three seconds, and a network that
# was away for three seconds is silent for six: TCP waits twice as long each time before it sends again. If the last
# worker is taken for dead, Locust ends the run.
SILENCE_S, USERS_STARTED_PER_S = 8, 5000
# Workers report every three seconds.
REPORTS_S = 4
# All users have been started, and for so long fewer have been there: the others have ended.
ENDED_S = 8

# A worker asks for these, which are always the same, once for each option and order to start users, and makes a whole
# parser for each answer: 200 ms a second for as long as there is a ramp.
argument_parser.default_args_dict = functools.cache(argument_parser.default_args_dict)

_BY_LOOKING: Any = runners.Runner.__dict__["user_classes_count"].fget


def _counted(runner: runners.Runner) -> dict[str, int]:
    """Locust looks at every user, several times a second; while all of one class run, their number says as much."""
    classes = runner.user_classes
    is_simple = len(classes) == 1 and runner.state in (runners.STATE_SPAWNING, runners.STATE_RUNNING)
    found: dict[str, int] = {classes[0].__name__: runner.user_count} if is_simple else _BY_LOOKING(runner)
    return found


runners.Runner.user_classes_count = property(_counted)  # type: ignore[assignment, method-assign]


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", default="", help="The stages of a run, as JSON", include_in_web_ui=False)
    parser.add_argument("--phases", default="", help="Write here where in them it is", include_in_web_ui=False)


@events.init.add_listener
def _heed(environment: Environment, **_: Any) -> None:
    """Locust itself heeds TERM only once its shape is over; to end a run early is what it does at Ctrl-C."""
    runner, options = environment.runner, environment.parsed_options
    if not isinstance(runner, runners.WorkerRunner):
        main: Any = gevent.get_hub().parent
        gevent.signal_handler(signal.SIGTERM, lambda: main.throw(KeyboardInterrupt()))
    if isinstance(runner, runners.MasterRunner):
        assert options is not None
        keep_still(environment)
        await_workers(runner, options.expect_workers, options.expect_workers_max_wait)


@events.spawning_complete.add_listener
def _freeze(**_: Any) -> None:
    """The users that are there now stay: a collector that goes through all of them again holds up everything."""
    gc.collect()
    gc.freeze()


class Steering(LoadTestShape):
    """Follows the plan that --plan names."""

    use_common_options = True  # --users and --spawn-rate are read by others; Locust need not warn of them

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._course: Course | None = None
        self._search: Search | None = None
        self._steps: list[Step] = []
        # Users when they were last another number than before, and the second of that.
        self._users_seen, self._seen_at = -1, 0

    def tick(self) -> tuple[int, float] | None:
        """How many users, and how fast to get there; None at the end."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        if self._course is None:
            self._begin(msgspec.json.decode(Path(options.plan).read_bytes(), type=Plan))
        assert self._course is not None
        second = RECORDER.now_s()
        users = self._users(self.runner, second)
        stage = self._course.at(second, users)
        while stage is None and self._search is not None:
            self._go_on(self._search)
            stage = self._course.at(second, users)
        self._tell(Path(options.phases), stage)
        return None if stage is None else (stage.sockets, stage.sockets_per_s)

    def _users(self, runner: runners.Runner, second: int) -> int:
        """How many have been started. Those of a worker that was lost count, for they are not started again.

        So do those that have ended by themselves, because their code raised in on_start().
        """
        if isinstance(runner, runners.MasterRunner):
            has_started, is_short = runner.spawning_completed, is_anyone_lost(runner)
        else:
            has_started, is_short = runner.state == runners.STATE_RUNNING, False
        if runner.user_count != self._users_seen:
            self._users_seen, self._seen_at = runner.user_count, second
        if has_started and (is_short or second - self._seen_at >= ENDED_S):
            return runner.target_user_count
        return runner.user_count

    def _begin(self, plan: Plan) -> None:
        self._plan = plan
        self._course = Course(plan.stages)
        users = max([plan.sockets, *(stage.sockets for stage in plan.stages)])
        runners.HEARTBEAT_LIVENESS = SILENCE_S + users // USERS_STARTED_PER_S
        if plan.objective is not None:
            self._search = Search(plan.first, plan.sockets)
            self._course.add(*self._try(plan.first))

    def _try(self, sockets: int) -> list[Stage]:
        hold_s = SETTLE_S + self._plan.step_s + REPORTS_S
        return [Stage(RAMP, sockets, self._plan.sockets_per_s, hold_s)]

    def _go_on(self, search: Search) -> None:
        """A step is over: judge it, and add the next one, or what is measured in the end."""
        assert self._course is not None
        end = self._course.phases[RAMP][1] - REPORTS_S
        step = self._judged(end - self._plan.step_s, end)
        self._steps.append(step)
        search.take(step.sockets, not step.broken)
        following = search.next()
        if following is not None:
            self._course.add(*self._try(following))
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

    def _tell(self, path: Path, stage: Stage | None) -> None:
        assert self._course is not None
        told = {
            "phase": stage.phase if stage else "",
            "sockets": stage.sockets if stage else 0,
            "phases": self._course.phases,
            "steps": [dataclasses.asdict(step) for step in self._steps],
        }
        with contextlib.suppress(OSError):  # no room: what was written before stays, and the plan is followed
            write_whole(path, json.dumps(told))
