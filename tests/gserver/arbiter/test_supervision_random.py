"""Supervision under random events, against simulated processes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gserver.arbiter.supervision import (
    FIRST_PAUSE_S,
    JUMP_S,
    KILL_STAGE_S,
    LONGEST_PAUSE_S,
    Action,
    Drain,
    Go,
    Kill,
    KillStage,
    Policy,
    ReloadDone,
    ReloadFailed,
    Spawn,
    Stage,
    Supervision,
)

#: A worker is overdue so long after its last heartbeat.
TIMEOUT_S = 5.0
READY_TIMEOUT_S = 8.0
DRAIN_PATIENCE_S = 20.0
#: So many decisions after the last event, all workers must serve again if the processes work.
STEPS = 300
STRUCK = {KillStage.DUMP: 1, KillStage.ABORT: 2, KillStage.KILL: 3}


@dataclass
class Process:
    """The actual state of a worker, independent of its record."""

    generation: int
    spawned_at: float
    stage: str = "booting"  # then ready, serving, draining, dead (and not reaped yet)
    deaf_since: float | None = None  # when it stopped to do anything but die
    needs_recycling: bool = False
    struck_at: float | None = None
    kill_stage: KillStage | None = None


@dataclass
class World:
    """The simulated processes. Carries out the actions of supervision, and fails on actions that make no sense."""

    supervision: Supervision
    now: float = 0.0
    processes: dict[int, Process] = field(default_factory=dict)
    forked: int = 0
    is_fork_broken: bool = False
    target_before: int | None = None  # while a reload is under way: the target to go back to
    failures_due: int = 0  # reloads that have failed and are not reported yet
    proven: int = -1
    not_before: float = 0.0  # because of a worker that never served
    deadlines: dict[int, float] = field(default_factory=dict)

    def living(self, *stages: str) -> list[int]:
        return [pid for pid, process in self.processes.items() if process.stage in stages]

    def starting(self) -> list[int]:
        return [pid for pid in self.living("booting", "ready") if self.processes[pid].kill_stage is None]

    def beat(self) -> None:
        """Every worker that is not stuck sends a heartbeat."""
        for pid in self.living("ready", "serving", "draining"):
            deaf_since = self.processes[pid].deaf_since
            self.deadlines[pid] = TIMEOUT_S + (self.now if deaf_since is None else deaf_since)

    # Events

    def get_ready(self, pid: int) -> None:
        process = self.processes[pid]
        if process.stage == "booting" and process.deaf_since is None:
            process.stage = "ready"
            self.deadlines[pid] = self.now + TIMEOUT_S  # the first heartbeat comes before READY
            self.supervision.became_ready(pid, self.now)

    def wear(self, pid: int) -> None:
        if self.processes[pid].stage == "serving" and self.processes[pid].deaf_since is None:
            self.processes[pid].needs_recycling = True
            self.supervision.request_recycling(pid)

    def deafen(self, pid: int) -> None:
        process = self.processes[pid]
        if process.stage != "dead" and process.deaf_since is None:
            process.deaf_since = self.now

    def end(self, pid: int) -> None:
        """Crash, or finish draining; the arbiter reaps it at once."""
        del self.processes[pid]
        self.deadlines.pop(pid, None)
        was_reloading = self.supervision.is_reloading
        child = self.supervision.exited(pid, self.now)
        assert child is not None
        if child.stage in (Stage.BOOTING, Stage.READY):
            self.not_before = self.now + FIRST_PAUSE_S
        if was_reloading and not self.supervision.is_reloading:
            assert self.supervision.target == self.target_before
            self.target_before = None
            self.failures_due += 1

    def reap(self) -> None:
        for pid in self.living("dead"):
            self.end(pid)

    def reload(self, target: int) -> None:
        if self.target_before is None:
            self.target_before = self.supervision.target
        self.not_before = 0.0
        self.supervision.begin_reload(target, self.now)

    def set_target(self, target: int) -> None:
        self.supervision.target = target

    # Time

    def pass_time(self, seconds: float) -> None:
        """Wake up at each wakes_at(); no action may have been due earlier."""
        end = self.now + seconds
        while (wakes_at := self.supervision.wakes_at(self.now, self.deadlines)) is not None and wakes_at <= end:
            self.now = wakes_at
            self.beat()
            self.settle()
        self.now = end
        self.beat()
        assert self.supervision.decide(self.now, self.deadlines) == [], "woke up too late"

    def jump(self, seconds: float) -> None:
        """All processes stood still: no healthy worker may be killed for that."""
        self.beat()
        self.supervision.wakes_at(self.now, self.deadlines)
        well = [pid for pid, process in self.processes.items() if process.deaf_since is None and not process.kill_stage]
        self.now += TIMEOUT_S + READY_TIMEOUT_S + JUMP_S + seconds
        actions = self.supervision.decide(self.now, self.deadlines)
        dumped = [each.child.pid for each in actions if isinstance(each, Kill) and each.kill_stage is KillStage.DUMP]
        assert not set(dumped) & set(well)
        self.carry_out(actions)
        self.beat()
        self.settle()

    # Decisions

    def settle(self) -> None:
        """Decide, and do it; then there is nothing more to do, and nothing to wake up for at once."""
        self.carry_out(self.supervision.decide(self.now, self.deadlines))
        for pid in self.living("draining"):
            self.supervision.stopped_accepting(pid, self.now)
        self.carry_out(self.supervision.decide(self.now, self.deadlines))
        again = self.supervision.decide(self.now, self.deadlines)
        assert again == [], again
        wakes_at = self.supervision.wakes_at(self.now, self.deadlines)
        assert wakes_at is None or wakes_at > self.now, "would wake up all the time"
        self.check()

    def serving_well(self) -> list[int]:
        """As far as the arbiter has been informed."""
        return [pid for pid in self.living("serving") if self.processes[pid].kill_stage is None]

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            before = len(self.serving_well())
            self.do(action)
            if isinstance(action, Drain):
                assert len(self.serving_well()) >= min(self.supervision.target, before), actions

    def do(self, action: Action) -> None:
        if isinstance(action, Spawn):
            self.fork(action)
        elif isinstance(action, Go):
            process = self.processes[action.child.pid]
            assert process.stage == "ready"
            process.stage = "serving"
            self.proven = max(self.proven, process.generation)
        elif isinstance(action, Drain):
            process = self.processes[action.child.pid]
            assert process.stage == "serving" or process.kill_stage is KillStage.KILL
            process.stage = "dead" if process.stage == "dead" else "draining"
        elif isinstance(action, Kill):
            self.strike(action)
        else:
            self.end_reload(action)

    def fork(self, spawn: Spawn) -> None:
        assert self.now >= self.not_before, "forked in a storm"
        if self.is_fork_broken:
            self.is_fork_broken = False
            self.supervision.could_not_spawn(self.now)
            return
        self.forked += 1
        self.processes[self.forked] = Process(spawn.generation, self.now)
        self.supervision.spawned(self.forked, self.now, age=self.forked)

    def strike(self, strike: Kill) -> None:
        assert strike.child.pid in self.supervision, "struck somebody that is gone"
        process = self.processes[strike.child.pid]
        before = STRUCK[process.kill_stage] if process.kill_stage else 0
        if strike.kill_stage is KillStage.DUMP or before:
            assert STRUCK[strike.kill_stage] == before + 1
        if before:
            assert process.struck_at is not None
            assert self.now >= process.struck_at + KILL_STAGE_S
        elif strike.kill_stage is KillStage.KILL:
            assert process.stage != "serving", "killed without a warning"
        process.kill_stage, process.struck_at = strike.kill_stage, self.now
        if strike.kill_stage is KillStage.KILL:
            process.stage = "dead"

    def end_reload(self, action: ReloadDone | ReloadFailed) -> None:
        if isinstance(action, ReloadFailed) and self.failures_due:
            self.failures_due -= 1
            return
        assert self.target_before is not None, "no reload was under way"
        if isinstance(action, ReloadDone):
            generations = {self.processes[pid].generation for pid in self.living("serving")}
            assert generations <= {self.supervision.generation}
            assert len(self.living("serving")) >= self.supervision.target
        elif not self.supervision.is_stopping:
            assert self.supervision.target == self.target_before
        self.target_before = None

    def check(self) -> None:
        starting = self.starting()
        assert not self.failures_due
        assert self.supervision.is_reloading == (self.target_before is not None)
        assert sorted(self.processes) == sorted(child.pid for child in self.supervision)
        assert (
            len(starting)
            <= max(0, self.supervision.target - len(self.living("serving"))) + self.supervision.policy.surge
        )
        assert self.proven >= self.supervision.generation or len(starting) <= 1

    # The end

    def behave(self) -> None:
        """Healthy workers do what they should; stuck ones are left to the arbiter."""
        self.reap()
        for pid, process in list(self.processes.items()):
            if process.deaf_since is None and process.stage == "booting":
                self.get_ready(pid)
            elif process.deaf_since is None and process.stage == "draining":
                self.end(pid)

    def is_in_order(self) -> bool:
        well = [pid for pid in self.living("serving") if self.processes[pid].deaf_since is None]
        worn = [pid for pid in well if self.processes[pid].needs_recycling]
        return len(well) == len(self.processes) == self.supervision.target and not worn and self.target_before is None


NUMBER = st.integers(0, 20)
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["ready", "ready", "ready", "crash", "wear", "deafen", "drained", "reap"]), NUMBER),
    st.tuples(st.sampled_from(["reload", "target"]), st.integers(0, 5)),
    st.tuples(st.sampled_from(["pass", "pass", "jump"]), st.sampled_from([0.1, 0.5, 1.0, 3.0, 40.0])),
    st.sampled_from([("behave", 0), ("behave", 0), ("behave", 0), ("break fork", 0)]),
)
WELL = [[("behave", 0.0)]] * 3
#: What happens, in batches: the arbiter decides after each. Many begin with all workers serving, or with a reload.
HISTORIES = st.tuples(
    st.sampled_from([[], WELL, [*WELL, [("reload", 4.0)], *WELL[:2]]]),
    st.lists(st.lists(EVENTS, min_size=1, max_size=4), max_size=25),
).map(lambda parts: [*parts[0], *parts[1]])
POLICIES = st.builds(
    Policy, st.integers(1, 4), st.sampled_from([0.0, 2.0]), st.just(READY_TIMEOUT_S), st.just(DRAIN_PATIENCE_S)
)
STAGES = {"ready": ("booting",), "wear": ("serving",), "drained": ("draining",)}


def happen(world: World, what: str, number: float) -> None:
    """One event; one that needs a worker picks it by `number` from those it can happen to."""
    if what in ("pass", "jump"):
        world.settle()
        world.pass_time(number) if what == "pass" else world.jump(number)
    elif what == "reload":
        world.reload(int(number))
    elif what == "target":
        world.set_target(int(number))
    elif what == "break fork":
        world.is_fork_broken = True
    elif what == "reap":
        world.reap()
    elif what == "behave":
        world.settle()
        world.behave()
    elif pids := world.living(*STAGES.get(what, ("booting", "ready", "serving", "draining"))):
        pid = pids[int(number) % len(pids)]
        does = {"ready": world.get_ready, "wear": world.wear, "deafen": world.deafen}
        does.get(what, world.end)(pid)


def make_world(policy: Policy, target: int, history: list[list[tuple[str, float]]]) -> World:
    world = World(Supervision(target, policy))
    world.settle()
    for batch in history:
        for what, number in batch:
            happen(world, what, number)
        world.beat()
        world.settle()
    world.is_fork_broken = False
    return world


@settings(max_examples=200)
@given(POLICIES, st.integers(1, 4), HISTORIES)
@example(Policy(1, 0.0, READY_TIMEOUT_S, DRAIN_PATIENCE_S), 1, [[("behave", 0), ("deafen", 0), ("pass", 40.0)]])
def test_when_nothing_happens_any_more_everything_comes_in_order(
    policy: Policy, target: int, history: list[list[tuple[str, float]]]
) -> None:
    world = make_world(policy, target, history)
    began_at = world.now
    for _ in range(STEPS):
        world.behave()
        world.beat()
        world.settle()
        if world.is_in_order():
            break
        world.pass_time(0.5)

    assert world.is_in_order(), world
    assert world.now - began_at <= LONGEST_PAUSE_S + READY_TIMEOUT_S + DRAIN_PATIENCE_S + 10 * KILL_STAGE_S
    forked = world.forked
    world.pass_time(100.0)
    assert world.forked == forked
    assert world.is_in_order()


@settings(max_examples=100)
@given(POLICIES, st.integers(1, 4), HISTORIES, st.sampled_from([0.5, 3.0, 30.0]), st.booleans())
def test_a_stop_ends_everybody_in_its_time(
    policy: Policy, target: int, history: list[list[tuple[str, float]]], limit_s: float, is_orderly: bool
) -> None:
    world = make_world(policy, target, history)
    forked, ends_at = world.forked, world.now + limit_s + 2 * KILL_STAGE_S  # its kill may have begun
    world.supervision.stop(world.now, limit_s)
    for pid in world.living("booting", "ready"):  # the arbiter kills them
        world.processes[pid].stage = "dead"
    for pid in world.living("serving"):
        world.processes[pid].stage = "draining"
    world.settle()
    while is_orderly and world.living("draining") and world.now < ends_at:
        world.behave()
        world.settle()
        world.pass_time(0.1)
    while world.now < ends_at:
        world.pass_time(0.1)
    world.settle()
    world.reap()

    assert not world.supervision
    assert world.forked == forked
    assert world.supervision.wakes_at(world.now, {}) is None


@pytest.mark.parametrize("surge", [1, 3])
def test_the_world_can_serve(surge: int) -> None:
    world = make_world(Policy(surge=surge), 3, [[("ready", 0)], [("ready", 0), ("ready", 0)], [("reload", 3)]])

    assert len(world.living("serving")) == 3
    assert len(world.starting()) == 1
