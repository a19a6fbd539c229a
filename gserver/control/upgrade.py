"""gserverctl upgrade: starts a new server beside the running one, waits until it is ready, and stops the old one.

If the new server ends, or is not ready in time, it is stopped, and the old one goes on. Works by the control sockets of
both, so it is the same under a service manager, which follows the upgrade by itself (see docs/operations.md).
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from gserver.control.client import ControlClient, Unreachable
from gserver.control.protocol import Problem

__all__ = ["upgrade"]

POLL_S = 0.1
# How long a new server that is cancelled may take to end before that is reported.
CANCEL_S = 10.0


def upgrade(old: ControlClient, ready_within_s: float) -> dict[str, Any]:
    """Replace the server behind `old` by a new one; return what both are. Returns after the end of the old one.

    Problem if the new one could not take over, with the reason; the old one goes on.
    """
    before = old.call("status")
    started = old.call("upgrade")
    after = _wait_until_ready(old, started, time.monotonic() + ready_within_s, ready_within_s)
    old.call("stop")
    old.wait_for_end(None)
    return {
        "old_pid": before["pid"],
        "old_version": before["version"],
        "pid": after["pid"],
        "version": after["version"],
    }


def _wait_until_ready(old: ControlClient, started: dict[str, Any], until: float, limit_s: float) -> dict[str, Any]:
    waits_for = "it has no control socket"
    while True:
        state = old.call("status")["upgrade"]
        if not state["is_running"]:
            raise Problem("failed", f"the new server could not start, the old one goes on: {state['failed_because']}")
        status = _status(started["socket"])
        if status is not None:
            if status["ready"] and status["state"] == "serving":
                return status
            waits_for = status["not_ready_because"] or status["state"]
        if time.monotonic() > until:
            _cancel(old)
            text = (
                f"the new server was not ready within {limit_s:g} s and was stopped, the old one goes on: {waits_for}"
            )
            raise Problem("failed", text)
        time.sleep(POLL_S)


def _status(path: str | None) -> dict[str, Any] | None:
    """The state of the new server; None as long as it has no control socket."""
    if path is None:
        return None
    with contextlib.suppress(Unreachable), ControlClient(path) as new:
        return new.call("status")
    return None


def _cancel(old: ControlClient) -> None:
    with contextlib.suppress(Problem):  # it has just ended
        old.call("cancel_upgrade")
    until = time.monotonic() + CANCEL_S
    while old.call("status")["upgrade"]["is_running"] and time.monotonic() < until:
        time.sleep(POLL_S)
