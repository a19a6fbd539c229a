"""Drive the supervision of workers without processes: decide, apply the actions, and describe them as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gserver.arbiter.supervision import (
    YOUNG_S,
    Action,
    Children,
    Drain,
    Go,
    Policy,
    ReloadDone,
    Spawn,
    Stage,
    Strike,
)

__all__ = ["LATER", "act", "describe", "make_reloading", "make_serving", "serving"]

#: A time at which workers that were forked at 0 are no longer young.
LATER = YOUNG_S * 100


def act(
    children: Children, now: float, forks: Iterable[int] = (), deadlines: Mapping[int, float] | None = None
) -> list[str]:
    """Decide and apply the actions; return a description of each.

    forks: pids for the workers that are forked; AssertionError unless exactly so many are forked.
    """
    pids = iter(forks)
    deadlines = deadlines or {}
    words: list[str] = []
    for _ in range(2):  # a worker that is told to drain reports at once that it no longer accepts
        for action in children.decide(now, deadlines):
            if isinstance(action, Spawn):
                pid = next(pids, None)
                assert pid is not None, f"no worker should be forked; {words}"
                children.spawned(pid, now, age=pid)
                words.append(f"fork {pid}")
            else:
                words.append(describe(action))
            if isinstance(action, Drain):
                children.is_deaf(action.child.pid, now)
    assert next(pids, None) is None, f"more workers should be forked; {words}"
    assert children.decide(now, deadlines) == [], f"further actions are due after {words}"
    return words


def describe(action: Action) -> str:
    if isinstance(action, Strike):
        return f"{action.stroke.value} {action.child.pid}"
    if isinstance(action, Go | Drain):
        return f"{type(action).__name__.lower()} {action.child.pid}"
    if isinstance(action, Spawn):
        return "fork"
    return "reloaded" if isinstance(action, ReloadDone) else "failed"


def make_serving(target: int, policy: Policy | None = None) -> Children:
    """Return Children in which the workers 1..target serve since time 0."""
    children = Children(target, policy or Policy())
    act(children, 0.0, [1])
    children.became_ready(1, 0.0)
    act(children, 0.0, range(2, target + 1))
    for pid in range(2, target + 1):
        children.became_ready(pid, 0.0)
    act(children, 0.0)
    return children


def make_reloading(target: int, policy: Policy | None = None) -> Children:
    """Return Children in which the workers 1..target serve since time 0, and at LATER the first new one was forked."""
    children = make_serving(target, policy)
    children.begin_reload(target, LATER)
    act(children, LATER, [target + 1])
    return children


def serving(children: Children) -> list[int]:
    return sorted(child.pid for child in children if child.stage is Stage.SERVING)
