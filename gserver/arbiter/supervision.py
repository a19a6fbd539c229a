"""Decides which workers to fork, drain and kill. Pure: events and the time go in, actions come out.

    BOOTING ──sent READY──> READY ──Go──> SERVING ──Drain──> DRAINING ──> ended

The first worker of a generation starts alone: it shows that the application can be served. In a reload it must also
stay alive for a while before it accepts connections. A reload and the recycling of one worker work in the same way: a
new worker serves before an old one drains.

If a worker dies before it serves, the next fork waits, and the pause doubles each time, so that a broken application is
not forked in a tight loop. If a worker dies less than a second after it began to serve, the next fork waits for the
shortest pause. All times are seconds on one clock, which the caller chooses.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gserver.arbiter.restart_causes import RestartCause

__all__ = [
    "Action",
    "Child",
    "Drain",
    "Go",
    "Kill",
    "KillStage",
    "Policy",
    "ReloadDone",
    "ReloadFailed",
    "Spawn",
    "Stage",
    "Supervision",
]

# A worker that dies sooner than this after it began to serve delays the next fork.
YOUNG_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# Between two kill stages: the dump of the stacks, SIGABRT and SIGKILL.
KILL_STAGE_S = 1.0
# How long a reload waits for NOT_ACCEPTING from a draining worker before it counts as done without it.
STOP_ACCEPTING_S = 1.0
# The arbiter woke up so much later than planned: all processes stood still (a paused machine, a stopped group).
JUMP_S = 2.0
# After that, how long no worker is killed for a missed heartbeat: two heartbeats and some time to spare.
JUMP_GRACE_S = 2.5
# How long the preload process may take to fork a worker. It has nothing else to do.
PRELOAD_FORK_S = 5.0


class Stage(enum.Enum):
    BOOTING = "booting"
    READY = "ready"  # waits for LISTEN before it accepts connections
    SERVING = "serving"
    DRAINING = "draining"


class KillStage(enum.Enum):
    """The steps, in this order, against a worker that missed its deadline."""

    DUMP = "dump"
    ABORT = "abort"
    KILL = "kill"


_KILL_STAGES = (KillStage.DUMP, KillStage.ABORT, KillStage.KILL)


@dataclass
class Child:
    """One worker process."""

    pid: int  # below 0: the preload process has not forked it yet
    generation: int
    spawned_at: float
    slot: int = 0  # on the scoreboard
    age: int = 0  # 1 for the first worker of this arbiter, 2 for the next
    stage: Stage = Stage.BOOTING
    since: float = 0.0  # when it entered its stage
    needs_recycling: bool = False  # it has sent RECYCLE
    has_stopped_accepting: bool = False  # it has sent NOT_ACCEPTING, or drains by itself
    kill_stages_done: int = 0
    next_kill_at: float | None = None  # the next kill stage after the first one, or the end of the drain limit
    drain_cause: RestartCause | None = None  # why it drains, if another worker replaces it
    is_surplus: bool = False  # it was drained or killed, and no worker replaces it
    has_served: bool = False
    start_failure: str | None = None  # why it cannot start, as it has reported
    must_end_since: float | None = None  # an operator has it killed and replaced, without a drain

    @property
    def is_pending(self) -> bool:
        return self.pid < 0

    @property
    def name(self) -> str:
        return "a new worker" if self.is_pending else f"the new worker {self.pid}"


@dataclass(frozen=True)
class Policy:
    """The settings that supervision depends on."""

    surge: int = 1
    settle_s: float = 0.0
    ready_timeout_s: float = 0.0  # 0: no limit
    drain_limit_s: float = 30.0


@dataclass(frozen=True)
class Spawn:
    generation: int


@dataclass(frozen=True)
class Go:
    """Let this worker accept connections."""

    child: Child


@dataclass(frozen=True)
class Drain:
    child: Child


@dataclass(frozen=True)
class Kill:
    child: Child
    kill_stage: KillStage


@dataclass(frozen=True)
class ReloadDone:
    pass


@dataclass(frozen=True)
class ReloadFailed:
    why: str


Action = Spawn | Go | Drain | Kill | ReloadDone | ReloadFailed


@dataclass
class _Reload:
    previous_target: int


@dataclass
class Supervision:
    """The records of all workers, and the decisions about them.

    Call decide() after every event and at wakes_at(), and carry out the actions that it returns.

    Args:
        target: how many workers should serve.
    """

    target: int
    policy: Policy = field(default_factory=Policy)
    generation: int = 0
    is_stopping: bool = False
    #: The server is about to stop: it still serves, and is no longer ready.
    is_leaving: bool = False

    def __post_init__(self) -> None:
        self._workers: dict[int, Child] = {}
        self._reload: _Reload | None = None
        self._proven_generation = -1  # the newest generation that has served
        self._failed_generation = -1  # the generation of the last reload that failed
        self._was_ever_ready = False
        self._has_died_booting = False
        self._waits_for_reload = False
        self.is_preloading = False  # the next fork makes a preload process, and workers wait until it is ready
        self.pause_s = 0.0  # between the last death and the next fork
        self._not_before = -math.inf
        self._grace_until = -math.inf
        self._planned_wakeup = math.inf
        self._queued: list[Action] = []

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._workers.values()))

    def __getitem__(self, pid: int) -> Child:
        return self._workers[pid]

    def __contains__(self, pid: int) -> bool:
        return pid in self._workers

    # Events

    def spawned(self, pid: int, now: float, slot: int = 0, age: int = 0) -> Child:
        child = Child(pid, self.generation, now, slot, age, since=now)
        self._workers[pid] = child
        return child

    def renamed(self, pid: int, to: int, now: float) -> None:
        """A booting worker goes on as another process, with another pid."""
        child = self._workers.pop(pid)
        child.pid, child.since = to, now
        self._workers[to] = child

    def became_ready(self, pid: int, now: float) -> None:
        child = self._workers.get(pid)
        if child is not None and child.stage is Stage.BOOTING:
            child.stage, child.since = Stage.READY, now
            self._was_ever_ready = True

    def cannot_start_because(self, pid: int, reason: str) -> None:
        """A worker has reported why it cannot start; it is about to end."""
        if pid in self._workers:
            self._workers[pid].start_failure = reason

    def request_recycling(self, pid: int) -> None:
        """A worker has reached a limit and is to be replaced."""
        if pid in self._workers:
            self._workers[pid].needs_recycling = True

    def request_kill(self, pid: int, now: float) -> None:
        """Replace a worker that is stuck: the kill stages begin at once, as after a missed deadline."""
        if pid in self._workers:
            self._workers[pid].needs_recycling, self._workers[pid].must_end_since = True, now

    def stopped_accepting(self, pid: int, now: float) -> None:
        """A worker has stopped accepting: it was sent DRAIN, or it got TERM itself and drains."""
        child = self._workers.get(pid)
        if child is None:
            return
        child.has_stopped_accepting = True
        if child.stage is Stage.SERVING:
            self._pause_after_death(child, now)
            child.drain_cause = RestartCause.EXITED
            self._begin_drain(child, now, self.policy.drain_limit_s)
            self._queued.append(Drain(child))

    def exited(self, pid: int, now: float) -> Child | None:
        """Remove the record of a worker that has ended, and return it; None for any other process."""
        child = self._workers.pop(pid, None)
        if child is None:
            return None
        self._has_died_booting |= child.stage is Stage.BOOTING
        if child.stage is not Stage.DRAINING:
            self._pause_after_death(child, now)
            if self._reload and child.generation == self.generation:
                why = f"{child.name} ended while it was {child.stage.value}"
                self._fail_reload(why if child.start_failure is None else f"{why}: {child.start_failure}")
        return child

    def could_not_spawn(self, now: float) -> None:
        """A fork failed: try again after a pause."""
        self._pause(now)

    def begin_reload(self, target: int, now: float) -> None:
        """Replace all workers with a new generation. A reload that is still running is abandoned for this one."""
        previous = self._reload.previous_target if self._reload else self.target
        self._kill_new_workers()
        self.generation += 1
        self._reload = _Reload(previous)
        self.target = target
        self.pause_s, self._not_before = 0.0, -math.inf
        self._waits_for_reload = False

    def wait_for_reload(self) -> None:
        """Fork no worker before the next reload."""
        self._waits_for_reload = True

    def resize(self, target: int) -> None:
        """Change the number of workers; it stays so even if a running reload fails."""
        self.target = target
        if self._reload:
            self._reload.previous_target = target

    def stop(self, now: float, limit_s: float) -> None:
        """Drain all workers; a worker that has not ended after `limit_s` is killed."""
        self.is_stopping = True
        if self._reload:
            self._reload = None
            self._queued.append(ReloadFailed("the server is stopping"))
        for child in self:
            child.is_surplus = True
            self._begin_drain(child, now, limit_s)

    # State

    @property
    def cannot_start(self) -> bool:
        """The first worker ended before it was ready: the application cannot be served."""
        return not self._was_ever_ready and not self._workers and self._has_died_booting

    @property
    def is_complete(self) -> bool:
        return len(self._in(Stage.SERVING)) >= self.target

    @property
    def is_reloading(self) -> bool:
        return self._reload is not None

    def wakes_at(self, now: float, deadlines: Mapping[int, float]) -> float | None:
        """When to call decide() next if no event comes before; None: not before an event.

        deadlines: as for decide().
        """
        is_pausing = now < self._not_before and not self.is_stopping and self._missing_workers() > 0
        times = [self._not_before] if is_pausing else []
        if self._reload:
            times += [time for child in self._still_accepting() if (time := child.since + STOP_ACCEPTING_S) > now]
        for child in self:
            times += self._times_of(child, deadlines)
        finite = [time for time in times if time < math.inf]
        self._planned_wakeup = min(finite, default=math.inf)
        return self._planned_wakeup if finite else None

    def _times_of(self, child: Child, deadlines: Mapping[int, float]) -> Iterator[float]:
        if child.next_kill_at is not None:
            yield child.next_kill_at
        if not child.kill_stages_done and (overdue_at := self._overdue_at(child, deadlines)) is not None:
            yield max(overdue_at, self._grace_until)
        if child.stage is Stage.READY and not child.kill_stages_done:
            yield self._may_serve_at(child)

    # Decisions

    def decide(self, now: float, deadlines: Mapping[int, float]) -> list[Action]:
        """Return the actions to carry out now.

        deadlines: by pid, when the next heartbeat of a worker is due at the latest.
        """
        if now > self._planned_wakeup + JUMP_S:
            self._grace_until = now + JUMP_GRACE_S
        actions = [action for child in self for action in self._kill_overdue(child, now, deadlines)]
        if not self.is_stopping:
            actions += self._start_serving(now)
            actions += self._drain_surplus(now)
            actions += self._spawn(now)
            actions += self._finish_reload(now)
        # Plan the next wake-up here, so that a standstill while the actions are carried out is noticed as well.
        self.wakes_at(now, deadlines)
        queued, self._queued = self._queued, []
        return [each for each in queued if not (isinstance(each, Kill) and each.child.pid not in self)] + actions

    def _kill_overdue(self, child: Child, now: float, deadlines: Mapping[int, float]) -> Iterator[Action]:
        """The next kill stage of an overdue worker, or of one after its first stage; none during the grace time."""
        overdue_at = self._overdue_at(child, deadlines)
        is_overdue = overdue_at is not None and now >= max(overdue_at, self._grace_until)
        if child.next_kill_at is not None and now >= child.next_kill_at:
            if not child.kill_stages_done:
                # It is alive and only drains too long: skip the dump and SIGABRT.
                child.kill_stages_done = len(_KILL_STAGES) - 1
        elif child.kill_stages_done or not is_overdue:
            return
        elif self._reload and child.generation == self.generation:
            self._fail_reload(f"{child.name} missed its deadline", except_for=child)
        yield Kill(child, _KILL_STAGES[child.kill_stages_done])
        child.kill_stages_done += 1
        child.next_kill_at = now + KILL_STAGE_S if child.kill_stages_done < len(_KILL_STAGES) else math.inf

    def _overdue_at(self, child: Child, deadlines: Mapping[int, float]) -> float | None:
        if child.must_end_since is not None:
            return child.must_end_since
        if child.stage is not Stage.BOOTING:
            return deadlines.get(child.pid)
        if child.is_pending:
            return child.since + PRELOAD_FORK_S
        return child.spawned_at + self.policy.ready_timeout_s if self.policy.ready_timeout_s else None

    def _start_serving(self, now: float) -> Iterator[Action]:
        for child in self._in(Stage.READY):
            if not child.kill_stages_done and now >= self._may_serve_at(child):
                child.stage, child.since, child.has_served = Stage.SERVING, now, True
                self.pause_s = 0.0  # the application works
                self._proven_generation = max(self._proven_generation, child.generation)
                yield Go(child)

    def _may_serve_at(self, child: Child) -> float:
        is_first = self._reload is not None and child.generation > self._proven_generation
        return child.since + (self.policy.settle_s if is_first else 0.0)

    def _drain_surplus(self, now: float) -> Iterator[Action]:
        """Drain surplus workers, but none during a reload until its new generation has served."""
        is_unproven = self._reload is not None and self._proven_generation < self.generation
        serving = [] if is_unproven else sorted(self._in(Stage.SERVING), key=self._drain_priority)
        for child in serving[: max(0, len(serving) - self.target)]:
            child.drain_cause = self._replacement_cause(child)
            child.is_surplus = child.drain_cause is None
            self._begin_drain(child, now, self.policy.drain_limit_s)
            yield Drain(child)
        starting = self._starting()
        wanted = max(0, self.target - len(self._in(Stage.SERVING))) + min(self.policy.surge, len(self._replaceable()))
        for child in starting[max(0, wanted) :]:
            yield self._kill_now(child)

    def _finish_reload(self, now: float) -> Iterator[Action]:
        """A reload is done when the new workers serve and every old one has stopped accepting, or had 1 s to do so."""
        if self._reload is None or self._starting() or self._replaceable() or not self.is_complete:
            return
        if all(now >= child.since + STOP_ACCEPTING_S for child in self._still_accepting()):
            self._reload = None
            yield ReloadDone()

    def _still_accepting(self) -> list[Child]:
        """Workers that were sent DRAIN and have not sent NOT_ACCEPTING yet."""
        return [
            child for child in self._in(Stage.DRAINING) if not (child.has_stopped_accepting or child.kill_stages_done)
        ]

    def _drain_priority(self, child: Child) -> tuple[bool, bool, bool, int]:
        """Sort key: first workers that are being killed, then those to be replaced, then those of a failed reload.

        Within each of these groups the oldest comes first.
        """
        is_left_over = self._reload is None and child.generation == self._failed_generation
        return not child.kill_stages_done, not self._is_replaceable(child), not is_left_over, child.age

    def _begin_drain(self, child: Child, now: float, limit_s: float) -> None:
        """A kill that has begun goes on at its own times."""
        child.stage, child.since = Stage.DRAINING, now
        if not child.kill_stages_done:
            child.next_kill_at = now + limit_s

    def _spawn(self, now: float) -> list[Action]:
        return [Spawn(self.generation)] * max(0, self._missing_workers() if now >= self._not_before else 0)

    def _missing_workers(self) -> int:
        """How many workers to fork as soon as the pause is over."""
        if self._waits_for_reload:
            return 0
        starting = len(self._starting())
        vacancies = self.target - len(self._in(Stage.SERVING)) - starting
        wanted = max(vacancies, min(self.policy.surge, len(self._replaceable())) - starting)
        if self._proven_generation < self.generation or self.is_preloading:
            new_workers = [child for child in self._new_workers() if child.generation == self.generation]
            wanted = min(wanted, 1 - len(new_workers))
        return wanted

    def _in(self, stage: Stage) -> list[Child]:
        return [child for child in self._workers.values() if child.stage is stage]

    def _new_workers(self) -> list[Child]:
        return self._in(Stage.BOOTING) + self._in(Stage.READY)

    def _starting(self) -> list[Child]:
        """Workers that are going to serve: booting or ready, and not being killed."""
        return [child for child in self._new_workers() if not child.kill_stages_done]

    def _replaceable(self) -> list[Child]:
        return [child for child in self._in(Stage.SERVING) if self._is_replaceable(child)]

    def _is_replaceable(self, child: Child) -> bool:
        return self._replacement_cause(child) is not None

    def _replacement_cause(self, child: Child) -> RestartCause | None:
        if self._reload is not None and child.generation < self.generation:
            return RestartCause.RELOADED
        if child.must_end_since is not None:
            return RestartCause.TIMEOUT
        return RestartCause.RECYCLED if child.needs_recycling else None

    # Failures

    def _pause_after_death(self, child: Child, now: float) -> None:
        """A worker ended unrequested: delay the next fork if it never served, or served for less than a second."""
        if child.stage is not Stage.SERVING:
            self._pause(now)
        elif now - child.since < YOUNG_S:
            self.pause_s = 0.0  # the application works
            self._pause(now)
        else:
            self.pause_s = 0.0

    def _pause(self, now: float) -> None:
        self.pause_s = min(LONGEST_PAUSE_S, self.pause_s * 2 or FIRST_PAUSE_S)
        self._not_before = now + self.pause_s

    def _fail_reload(self, why: str, except_for: Child | None = None) -> None:
        assert self._reload is not None
        self.target = self._reload.previous_target
        self._reload = None
        self._failed_generation = self.generation
        self._queued.append(ReloadFailed(why))
        self._kill_new_workers(except_for)

    def _kill_new_workers(self, except_for: Child | None = None) -> None:
        """Kill the workers that do not serve yet; `except_for` goes through its kill stages instead."""
        self._queued += [self._kill_now(child) for child in self._starting() if child is not except_for]

    def _kill_now(self, child: Child) -> Kill:
        child.stage, child.kill_stages_done, child.next_kill_at = Stage.DRAINING, len(_KILL_STAGES), math.inf
        child.is_surplus = True
        return Kill(child, KillStage.KILL)
