"""The causes, from a Supervision that goes through the events."""

from __future__ import annotations

import pytest

from gserver.arbiter.restart_causes import RestartCause, restart_cause
from gserver.arbiter.supervision import Child, Go, Policy, Spawn, Supervision


class Run:
    """A Supervision whose actions are carried out at once: a worker that is forked is ready, and serves."""

    def __init__(self, target: int = 1, boots: bool = True) -> None:
        self.supervision = Supervision(target, Policy(ready_timeout_s=5.0))
        self.now = 0.0
        self.pid = 100
        self._boots = boots
        self.decide()

    def decide(self, deadlines: dict[int, float] | None = None) -> None:
        while actions := self.supervision.decide(self.now, deadlines or {}):
            for action in actions:
                if isinstance(action, Spawn):
                    self.pid += 1
                    self.supervision.spawned(self.pid, self.now, age=self.pid)
                    if self._boots:
                        self.supervision.became_ready(self.pid, self.now)
            if not any(isinstance(action, Spawn | Go) for action in actions):
                return

    def end(self, pid: int, code: int = 0) -> RestartCause | None:
        child = self.supervision.exited(pid, self.now)
        assert isinstance(child, Child)
        return restart_cause(child, code)


@pytest.mark.parametrize(
    ("code", "expected"), [(0, RestartCause.EXITED), (7, RestartCause.EXITED), (-9, RestartCause.SIGNAL)]
)
def test_a_worker_that_serves_ends_by_itself_or_by_a_signal(code: int, expected: RestartCause) -> None:
    assert Run().end(101, code) is expected


def test_a_worker_that_drains_by_itself_has_exited() -> None:
    run = Run()
    run.supervision.stopped_accepting(101, run.now)
    run.decide()

    assert run.end(101) is RestartCause.EXITED


def test_a_worker_that_does_not_come_up_has_failed_to_start() -> None:
    assert Run(boots=False).end(101, 3) is RestartCause.START_FAILED


def test_a_worker_that_is_killed_for_its_heartbeat_or_its_start() -> None:
    run = Run()
    run.now = 10.0
    run.decide({101: 9.0})
    assert run.end(101, -9) is RestartCause.TIMEOUT

    booting = Run(boots=False)
    booting.now = 6.0
    booting.decide()
    assert booting.end(101, -9) is RestartCause.TIMEOUT


def test_a_worker_that_is_recycled_or_reloaded_has_that_cause_however_it_ends() -> None:
    run = Run()
    run.supervision.request_recycling(101)
    run.decide()
    assert run.end(101, -9) is RestartCause.RECYCLED

    run.supervision.begin_reload(1, run.now)
    run.decide()
    assert run.end(102) is RestartCause.RELOADED
    assert run.pid == 103


def test_a_worker_that_is_not_replaced_has_no_cause() -> None:
    run = Run(target=2)
    run.supervision.resize(1)
    run.decide()
    assert run.end(101) is None

    run.supervision.stop(run.now, 1.0)
    assert run.end(102) is None


def test_new_workers_of_a_reload_that_failed_have_no_cause() -> None:
    run = Run(target=1)
    run._boots = False
    run.supervision.begin_reload(1, run.now)
    run.decide()
    run.supervision.begin_reload(1, run.now)  # abandons the first one, and kills its worker
    run.decide()

    assert run.end(102, -9) is None
