"""gserverctl upgrade: starts a new server beside the running one, waits until it is ready, and stops the old one.

If the new server ends, or is not ready in time, or at Ctrl-C, it is stopped, and the old one goes on. All of it goes
through the old server, to which the new one reports. So it is the same under a service manager, which follows the
upgrade by itself (see docs/operations.md).
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from gserver.control.client import ControlClient, Unreachable
from gserver.control.protocol import Problem

__all__ = ["upgrade"]

POLL_S = 0.1
# How long a new server that is cancelled may take to end before it is killed, and after that.
CANCEL_S = 10.0


def upgrade(old: ControlClient, ready_within_s: float) -> dict[str, Any]:
    """Replace the server behind `old` by a new one; return what both are. Returns after the end of the old one.

    Problem if the new one could not take over, with the reason; the old one goes on. Unreachable if the old one ends.
    """
    before = old.call("status")
    pid = old.call("upgrade")["pid"]
    try:
        after = _wait_until_ready(old, time.monotonic() + ready_within_s, ready_within_s)
        old.call("finish_upgrade")
    except KeyboardInterrupt:
        with contextlib.suppress(Unreachable), ControlClient(old.path) as again:  # `old` may be inside a reply
            _cancel(again)
        raise
    except Unreachable as error:
        raise Unreachable(f"{error}, before the new server with pid {pid} was ready") from None
    old.wait_for_end(None)
    return {
        "old_pid": before["pid"],
        "old_version": before["version"],
        "pid": after["pid"],
        "version": after["version"],
    }


def _wait_until_ready(old: ControlClient, until: float, limit_s: float) -> dict[str, Any]:
    """What is known about the new server, once all its workers serve."""
    while True:
        state: dict[str, Any] = old.call("status")["upgrade"]
        if not state["is_running"]:
            raise Problem("failed", f"the new server could not start, the old one goes on: {state['failed_because']}")
        if state["is_ready"]:
            return state
        if time.monotonic() > until:
            waits_for = _waits_for(state)
            outcome = "was stopped" if _cancel(old) else f"does not end (pid {state['pid']})"
            text = f"the new server was not ready within {limit_s:g} s and {outcome}, the old one goes on: {waits_for}"
            raise Problem("failed", text)
        time.sleep(POLL_S)


def _waits_for(state: dict[str, Any]) -> str:
    """Why the new server is not ready, as far as it can be known."""
    if state["version"] is None:
        return "it has reported nothing: it hangs before it listens, or its version is too old for this"
    if state["control_socket"] is not None:
        with contextlib.suppress(Unreachable, Problem), ControlClient(state["control_socket"]) as new:
            status = new.call("status", limit_s=2.0)
            workers = status["workers"]
            return status["not_ready_because"] or f"{workers['serving']} of {workers['target']} workers serve"
    return "its workers do not serve"


def _cancel(old: ControlClient) -> bool:
    """Stop the new server, by force if it does not end in time; return whether it has ended."""
    for _ in range(2):
        with contextlib.suppress(Problem):  # it has just ended
            old.call("cancel_upgrade")
        until = time.monotonic() + CANCEL_S
        while time.monotonic() < until:
            if not old.call("status")["upgrade"]["is_running"]:
                return True
            time.sleep(POLL_S)
    return False
