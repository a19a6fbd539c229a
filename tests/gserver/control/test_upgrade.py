"""The steps of an upgrade, with servers that are made up; tests/integration/test_control_upgrade.py has real ones."""

from __future__ import annotations

from typing import Any

import pytest

from gserver.control import upgrade as module
from gserver.control.client import Unreachable
from gserver.control.protocol import Problem
from gserver.control.upgrade import upgrade

STATE = {
    "pid": 8,
    "is_running": True,
    "is_ready": False,
    "version": "2",
    "control_socket": None,
    "failed_because": None,
}


class Old:
    """The old server: its status has these states of the upgrade, one after the other; the last one stays."""

    path = "ctl"

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.called: list[str] = []
        self.ends_after_kills: int | None = 1

    def __enter__(self) -> Old:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def call(self, command: str, *, limit_s: float | None = None, **arguments: Any) -> dict[str, Any]:
        if command != "status":
            self.called.append(command)
            if command == "upgrade":
                return {"pid": 8}
            if command == "cancel_upgrade" and self.called.count(command) == self.ends_after_kills:
                self.states = [{**STATE, "is_running": False}]
            return {}
        if "upgrade" not in self.called:
            return {"pid": 7, "version": "1"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, BaseException):
            raise state
        return {"upgrade": state}

    def wait_for_end(self, limit_s: float | None) -> None:
        self.called.append("wait")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.001)
    monkeypatch.setattr(module, "CANCEL_S", 0.05)


def run(old: Old, limit_s: float = 30.0) -> dict[str, Any]:
    return upgrade(old, limit_s)  # type: ignore[arg-type]


def test_the_old_one_is_stopped_when_the_new_one_is_ready() -> None:
    old = Old({**STATE, "version": None}, STATE, {**STATE, "is_ready": True})

    assert run(old) == {"old_pid": 7, "old_version": "1", "pid": 8, "version": "2"}
    assert old.called == ["upgrade", "finish_upgrade", "wait"]


def test_the_reason_of_a_new_one_that_ended_is_the_error() -> None:
    old = Old(STATE, {**STATE, "is_running": False, "failed_because": "a wrong setting"})

    with pytest.raises(Problem, match=r"^the new server could not start, the old one goes on: a wrong setting$"):
        run(old)
    assert old.called == ["upgrade"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            {**STATE, "version": None},
            "it has reported nothing: it hangs before it listens, or its version is too old for this",
        ),
        (STATE, "its workers do not serve"),
        ({**STATE, "control_socket": "/nowhere/ctl"}, "its workers do not serve"),
    ],
)
def test_a_new_one_that_is_late_is_stopped(state: dict[str, Any], reason: str) -> None:
    old = Old(state)

    with pytest.raises(Problem) as caught:
        run(old, 0.01)
    assert str(caught.value) == (
        f"the new server was not ready within 0.01 s and was stopped, the old one goes on: {reason}"
    )
    assert old.called == ["upgrade", "cancel_upgrade"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"not_ready_because": "no worker serves", "workers": {}}, "no worker serves"),
        ({"not_ready_because": None, "workers": {"serving": 1, "target": 4}}, "1 of 4 workers serve"),
    ],
)
def test_the_new_one_is_asked_why_it_is_not_ready(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], reason: str
) -> None:
    class New(Old):
        def call(self, command: str, *, limit_s: float | None = None, **arguments: Any) -> dict[str, Any]:
            return answer

    monkeypatch.setattr(module, "ControlClient", lambda path: New())
    with pytest.raises(Problem, match=f": {reason}$"):
        run(Old({**STATE, "control_socket": "ctl.2"}), 0.01)


def test_a_new_one_that_does_not_end_is_killed_and_else_reported() -> None:
    stubborn, immortal = Old(STATE), Old(STATE)
    stubborn.ends_after_kills, immortal.ends_after_kills = 2, None

    with pytest.raises(Problem, match="and was stopped"):
        run(stubborn, 0.01)
    assert stubborn.called == ["upgrade", "cancel_upgrade", "cancel_upgrade"]
    with pytest.raises(Problem, match=r"and does not end \(pid 8\), the old one goes on"):
        run(immortal, 0.01)


def test_ctrl_c_stops_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    old, again = Old(STATE, KeyboardInterrupt()), Old(STATE)
    again.called = ["upgrade"]
    monkeypatch.setattr(module, "ControlClient", lambda path: again)

    with pytest.raises(KeyboardInterrupt):
        run(old)
    assert again.called == ["upgrade", "cancel_upgrade"]
    assert "finish_upgrade" not in old.called


def test_the_end_of_the_old_one_names_the_new_one() -> None:
    with pytest.raises(Unreachable, match=r"^it has ended, before the new server with pid 8 was ready$"):
        run(Old(STATE, Unreachable("it has ended")))


def test_an_old_one_that_refuses_starts_nothing() -> None:
    class Refusing(Old):
        def call(self, command: str, *, limit_s: float | None = None, **arguments: Any) -> dict[str, Any]:
            if command == "upgrade":
                raise Problem("failed", "an upgrade is under way")
            return super().call(command)

    with pytest.raises(Problem, match=r"^an upgrade is under way$"):
        run(Refusing(STATE))
