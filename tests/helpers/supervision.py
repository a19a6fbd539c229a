"""Drives supervision without processes: decides, carries out, and returns the actions as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gserver.arbiter.supervision import (
    YOUNG_S,
    Action,
    Drain,
    Go,
    Kill,
    Policy,
    ReloadDone,
    Spawn,
    Stage,
    Supervision,
)

__all__ = ["LATER", "act", "describe", "make_reloading", "make_serving", "serving"]

#: A time at which workers that began at 0 are not young any more.
LATER = YOUNG_S * 100


def act(
    supervision: Supervision, now: float, forks: Iterable[int] = (), deadlines: Mapping[int, float] | None = None
) -> list[str]:
    """Decide and carry out the actions; return them as text. As many workers must be forked as `forks` has pids."""
    pids = iter(forks)
    deadlines = deadlines or {}
    words: list[str] = []
    for _ in range(2):  # a worker that gets DRAIN sends NOT_ACCEPTING at once
        for action in supervision.decide(now, deadlines):
            if isinstance(action, Spawn):
                pid = next(pids, None)
                assert pid is not None, f"nobody should be forked; {words}"
                supervision.spawned(pid, now, age=pid)
                words.append(f"fork {pid}")
            else:
                words.append(describe(action))
            if isinstance(action, Drain):
                supervision.stopped_accepting(action.child.pid, now)
    assert next(pids, None) is None, f"more should be forked; {words}"
    assert supervision.decide(now, deadlines) == [], f"something was left after {words}"
    return words


def describe(action: Action) -> str:
    if isinstance(action, Kill):
        return f"{action.kill_stage.value} {action.child.pid}"
    if isinstance(action, Go | Drain):
        return f"{type(action).__name__.lower()} {action.child.pid}"
    if isinstance(action, Spawn):
        return "fork"
    return "reloaded" if isinstance(action, ReloadDone) else "failed"


def make_serving(target: int, policy: Policy | None = None) -> Supervision:
    """Supervision whose workers 1..target serve since 0."""
    supervision = Supervision(target, policy or Policy())
    act(supervision, 0.0, [1])
    supervision.became_ready(1, 0.0)
    act(supervision, 0.0, range(2, target + 1))
    for pid in range(2, target + 1):
        supervision.became_ready(pid, 0.0)
    act(supervision, 0.0)
    return supervision


def make_reloading(target: int, policy: Policy | None = None) -> Supervision:
    """Supervision whose workers 1..target serve since 0; at LATER, the first new worker was forked."""
    supervision = make_serving(target, policy)
    supervision.begin_reload(target, LATER)
    act(supervision, LATER, [target + 1])
    return supervision


def serving(supervision: Supervision) -> list[int]:
    return sorted(child.pid for child in supervision if child.stage is Stage.SERVING)
