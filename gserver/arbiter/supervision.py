"""The arbiter's book of its workers. Pure: events and the time go in, decisions come out; nobody is forked here.

    BOOTING ──said ready──> READY ──Go──> SERVING ──Drain──> DRAINING ──> gone

The first worker of a generation starts alone and proves that the application can be served; in a reload it must also
stay alive for a while before it takes connections. Replacing works the same for a reload and for a worker that asks for
it: a new one is serving before an old one drains. Whoever dies before it serves is followed after a pause that doubles,
so that a broken application is not forked in a storm; whoever dies young while it serves, after the shortest pause.
Times are seconds on one clock of the caller's.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = [
    "Action",
    "Child",
    "Children",
    "Drain",
    "Go",
    "KillStage",
    "Policy",
    "ReloadDone",
    "ReloadFailed",
    "Spawn",
    "Stage",
    "Strike",
]

YOUNG_S = 1.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# Between the dump of a worker's stacks, its abortion and its end.
STROKE_S = 1.0
# What a worker that is told to drain gets to stop accepting, before a reload is called done without its word.
DEAF_S = 1.0
# Waking so much later than planned means that time stood still for everybody (a paused machine, a stopped group).
JUMP_S = 2.0
# What workers then get to show that they are alive: two of their heartbeats.
AMNESTY_S = 2.5
# What a mold gets to fork a worker: it only waits for orders.
BIRTH_S = 5.0


class Stage(enum.Enum):
    BOOTING = "booting"
    READY = "ready"  # waits for the word to accept connections
    SERVING = "serving"
    DRAINING = "draining"


class KillStage(enum.Enum):
    """What happens, in turn, to a worker that is not heard of any more."""

    DUMP = "dump"
    ABORT = "abort"
    KILL = "kill"


_KILL_STAGES = (KillStage.DUMP, KillStage.ABORT, KillStage.KILL)


@dataclass
class Child:
    """One worker process."""

    pid: int  # less than 0: a mold is to fork it
    generation: int
    spawned_at: float
    slot: int = 0  # of the scoreboard, and of the listeners where each worker has its own
    age: int = 0  # the how-manyeth worker of this arbiter
    stage: Stage = Stage.BOOTING
    since: float = 0.0  # when it came to its stage
    is_worn: bool = False  # it asked to be replaced
    is_deaf: bool = False  # it accepts no more
    strokes: int = 0
    strikes_at: float | None = None  # when the next stroke comes, once the first has, or the end of a drain's patience

    @property
    def is_unborn(self) -> bool:
        return self.pid < 0

    @property
    def name(self) -> str:
        return "a new worker" if self.is_unborn else f"the new worker {self.pid}"


@dataclass(frozen=True)
class Policy:
    """What of the settings matters here."""

    surge: int = 1
    settle_s: float = 0.0
    ready_timeout_s: float = 0.0  # 0: for ever
    drain_patience_s: float = 30.0


@dataclass(frozen=True)
class Spawn:
    generation: int


@dataclass(frozen=True)
class Go:
    """It may accept connections."""

    child: Child


@dataclass(frozen=True)
class Drain:
    child: Child


@dataclass(frozen=True)
class Strike:
    child: Child
    stroke: KillStage


@dataclass(frozen=True)
class ReloadDone:
    pass


@dataclass(frozen=True)
class ReloadFailed:
    why: str


Action = Spawn | Go | Drain | Strike | ReloadDone | ReloadFailed


@dataclass
class _Reload:
    previous_target: int


@dataclass
class Children:
    """The workers there are, and how many there should be.

    Call decide() after every event and at wakes_at(), and do what it says.
    """

    target: int
    policy: Policy = field(default_factory=Policy)
    generation: int = 0
    is_stopping: bool = False

    def __post_init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._reload: _Reload | None = None
        self._proven = -1  # the newest generation that has served
        self._failed = -1  # the newest generation whose reload has failed
        self._was_ever_ready = False
        self._has_died_booting = False
        self._waits_for_reload = False
        self.is_molding = False  # the next fork is that of a mold, and others wait until it is ready
        self.pause_s = 0.0  # before the next fork, after the last death
        self._not_before = -math.inf
        self._amnesty_until = -math.inf
        self._planned = math.inf
        self._news: list[Action] = []

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def __getitem__(self, pid: int) -> Child:
        return self._children[pid]

    def __contains__(self, pid: int) -> bool:
        return pid in self._children

    # Events

    def spawned(self, pid: int, now: float, slot: int = 0, age: int = 0) -> Child:
        child = Child(pid, self.generation, now, slot, age, since=now)
        self._children[pid] = child
        return child

    def renamed(self, pid: int, to: int, now: float) -> None:
        """What boots goes on as another process."""
        child = self._children.pop(pid)
        child.pid, child.since = to, now
        self._children[to] = child

    def became_ready(self, pid: int, now: float) -> None:
        child = self._children.get(pid)
        if child is not None and child.stage is Stage.BOOTING:
            child.stage, child.since = Stage.READY, now
            self._was_ever_ready = True

    def is_worn(self, pid: int) -> None:
        """A worker asks to be replaced."""
        if pid in self._children:
            self._children[pid].is_worn = True

    def is_deaf(self, pid: int, now: float) -> None:
        """A worker accepts no more connections: as it was told, or because it got TERM itself, and drains."""
        child = self._children.get(pid)
        if child is None:
            return
        child.is_deaf = True
        if child.stage is Stage.SERVING:
            self._slow_down(child, now)
            self._begin_drain(child, now, self.policy.drain_patience_s)
            self._news.append(Drain(child))

    def exited(self, pid: int, now: float) -> Child | None:
        """Forget a worker that has ended; None for a process that is none of ours."""
        child = self._children.pop(pid, None)
        if child is None:
            return None
        self._has_died_booting |= child.stage is Stage.BOOTING
        if child.stage is not Stage.DRAINING:
            self._slow_down(child, now)
            if self._reload and child.generation == self.generation:
                self._fail_reload(f"{child.name} ended while it was {child.stage.value}", now)
        return child

    def could_not_spawn(self, now: float) -> None:
        """A fork failed: try again later."""
        self._pause(now)

    def begin_reload(self, target: int, now: float) -> None:
        """Replace all workers with a new generation; one that is under way already is given up for this one."""
        previous = self._reload.previous_target if self._reload else self.target
        self._dismiss_newcomers(now)
        self.generation += 1
        self._reload = _Reload(previous)
        self.target = target
        self.pause_s, self._not_before = 0.0, -math.inf
        self._waits_for_reload = False

    def wait_for_reload(self) -> None:
        """Fork nobody before the next reload."""
        self._waits_for_reload = True

    def resize(self, target: int) -> None:
        """Keep so many workers from now on, whatever becomes of a reload that is under way."""
        self.target = target
        if self._reload:
            self._reload.previous_target = target

    def stop(self, now: float, patience_s: float) -> None:
        """Everybody drains; whoever is there after `patience_s` is killed."""
        self.is_stopping = True
        if self._reload:
            self._reload = None
            self._news.append(ReloadFailed("the server is stopping"))
        for child in self:
            self._begin_drain(child, now, patience_s)

    # Questions

    @property
    def cannot_start(self) -> bool:
        """The first worker ended before it was ready: the application cannot be served."""
        return not self._was_ever_ready and not self._children and self._has_died_booting

    @property
    def is_complete(self) -> bool:
        return len(self._in(Stage.SERVING)) >= self.target

    @property
    def is_reloading(self) -> bool:
        return self._reload is not None

    def wakes_at(self, now: float, deadlines: Mapping[int, float]) -> float | None:
        """When decide() will have more to say than now, if only time has to pass. `deadlines`: as for decide()."""
        times = [self._not_before] if now < self._not_before and not self.is_stopping and self._wanted() > 0 else []
        if self._reload:
            times += [time for child in self._listening_still() if (time := child.since + DEAF_S) > now]
        for child in self:
            times += self._times_of(child, deadlines)
        finite = [time for time in times if time < math.inf]
        self._planned = min(finite, default=math.inf)
        return self._planned if finite else None

    def _times_of(self, child: Child, deadlines: Mapping[int, float]) -> Iterator[float]:
        if child.strikes_at is not None:
            yield child.strikes_at
        if not child.strokes and (overdue_at := self._overdue_at(child, deadlines)) is not None:
            yield max(overdue_at, self._amnesty_until)
        if child.stage is Stage.READY and not child.strokes:
            yield self._goes_at(child)

    # Decisions

    def decide(self, now: float, deadlines: Mapping[int, float]) -> list[Action]:
        """Return what is to be done now. `deadlines`: by pid, when each worker must have been heard of again."""
        if now > self._planned + JUMP_S:
            self._amnesty_until = now + AMNESTY_S
        actions = [action for child in self for action in self._strike(child, now, deadlines)]
        if not self.is_stopping:
            actions += self._promote(now)
            actions += self._dismiss(now)
            actions += self._hire(now)
            actions += self._complete(now)
        # An arbiter that stands still while it carries these out has jumped in time as well: by what is planned here.
        self.wakes_at(now, deadlines)
        news, self._news = self._news, []
        return [each for each in news if not (isinstance(each, Strike) and each.child.pid not in self)] + actions

    def _strike(self, child: Child, now: float, deadlines: Mapping[int, float]) -> Iterator[Action]:
        """The next stroke on a worker that is overdue, or that was struck already; none during an amnesty."""
        overdue_at = self._overdue_at(child, deadlines)
        is_overdue = overdue_at is not None and now >= max(overdue_at, self._amnesty_until)
        if child.strikes_at is not None and now >= child.strikes_at:
            if not child.strokes:
                child.strokes = len(_KILL_STAGES) - 1  # it was heard of, and only takes too long to drain
        elif child.strokes or not is_overdue:
            return
        elif self._reload and child.generation == self.generation:
            self._fail_reload(f"{child.name} was not heard of in time", now, spare=child)
        yield Strike(child, _KILL_STAGES[child.strokes])
        child.strokes += 1
        child.strikes_at = now + STROKE_S if child.strokes < len(_KILL_STAGES) else math.inf

    def _overdue_at(self, child: Child, deadlines: Mapping[int, float]) -> float | None:
        if child.stage is not Stage.BOOTING:
            return deadlines.get(child.pid)
        if child.is_unborn:
            return child.since + BIRTH_S
        return child.spawned_at + self.policy.ready_timeout_s if self.policy.ready_timeout_s else None

    def _promote(self, now: float) -> Iterator[Action]:
        for child in self._in(Stage.READY):
            if not child.strokes and now >= self._goes_at(child):
                child.stage, child.since = Stage.SERVING, now
                self.pause_s = 0.0  # the application works
                self._proven = max(self._proven, child.generation)
                yield Go(child)

    def _goes_at(self, child: Child) -> float:
        is_first = self._reload is not None and child.generation > self._proven
        return child.since + (self.policy.settle_s if is_first else 0.0)

    def _dismiss(self, now: float) -> Iterator[Action]:
        """Drain who is too many, but nobody for a reload that has not proven itself."""
        is_unproven = self._reload is not None and self._proven < self.generation
        serving = [] if is_unproven else sorted(self._in(Stage.SERVING), key=self._dispensability)
        for child in serving[: max(0, len(serving) - self.target)]:
            self._begin_drain(child, now, self.policy.drain_patience_s)
            yield Drain(child)
        starting = self._starting()
        wanted = max(0, self.target - len(self._in(Stage.SERVING))) + min(self.policy.surge, len(self._replaceable()))
        for child in starting[max(0, wanted) :]:
            yield self._kill(child)

    def _complete(self, now: float) -> Iterator[Action]:
        """A reload is done when the new workers serve and no old one accepts any more, or has had time to stop."""
        if self._reload is None or self._starting() or self._replaceable() or not self.is_complete:
            return
        if all(now >= child.since + DEAF_S for child in self._listening_still()):
            self._reload = None
            yield ReloadDone()

    def _listening_still(self) -> list[Child]:
        """Old workers that drain, and have not said that they accept no more."""
        return [child for child in self._in(Stage.DRAINING) if not (child.is_deaf or child.strokes)]

    def _dispensability(self, child: Child) -> tuple[bool, bool, bool, int]:
        """Who goes first: those under strokes, to be replaced, left over from a reload that failed; the oldest."""
        is_left_over = self._reload is None and child.generation == self._failed
        return not child.strokes, not self._is_replaceable(child), not is_left_over, child.age

    def _begin_drain(self, child: Child, now: float, patience_s: float) -> None:
        """Strokes that have begun go on as they would."""
        child.stage, child.since = Stage.DRAINING, now
        if not child.strokes:
            child.strikes_at = now + patience_s

    def _hire(self, now: float) -> list[Action]:
        return [Spawn(self.generation)] * max(0, self._wanted() if now >= self._not_before else 0)

    def _wanted(self) -> int:
        """How many workers to fork, as soon as it may be done."""
        if self._waits_for_reload:
            return 0
        starting = len(self._starting())
        vacancies = self.target - len(self._in(Stage.SERVING)) - starting
        wanted = max(vacancies, min(self.policy.surge, len(self._replaceable())) - starting)
        if self._proven < self.generation or self.is_molding:
            newcomers = [child for child in self._newcomers() if child.generation == self.generation]
            wanted = min(wanted, 1 - len(newcomers))
        return wanted

    def _in(self, stage: Stage) -> list[Child]:
        return [child for child in self._children.values() if child.stage is stage]

    def _newcomers(self) -> list[Child]:
        return self._in(Stage.BOOTING) + self._in(Stage.READY)

    def _starting(self) -> list[Child]:
        """Those that will serve, and have not been struck."""
        return [child for child in self._newcomers() if not child.strokes]

    def _replaceable(self) -> list[Child]:
        return [child for child in self._in(Stage.SERVING) if self._is_replaceable(child)]

    def _is_replaceable(self, child: Child) -> bool:
        return child.is_worn or (self._reload is not None and child.generation < self.generation)

    # What goes wrong

    def _slow_down(self, child: Child, now: float) -> None:
        """Somebody ended without being asked to: whoever comes next waits, if that one was young or never served."""
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

    def _fail_reload(self, why: str, now: float, spare: Child | None = None) -> None:
        assert self._reload is not None
        self.target = self._reload.previous_target
        self._reload = None
        self._failed = self.generation
        self._news.append(ReloadFailed(why))
        self._dismiss_newcomers(now, spare)

    def _dismiss_newcomers(self, now: float, spare: Child | None = None) -> None:
        """Kill who has not served yet, but for one whose strokes have begun."""
        self._news += [self._kill(child) for child in self._starting() if child is not spare]

    def _kill(self, child: Child) -> Strike:
        child.stage, child.strokes, child.strikes_at = Stage.DRAINING, len(_KILL_STAGES), math.inf
        return Strike(child, KillStage.KILL)
