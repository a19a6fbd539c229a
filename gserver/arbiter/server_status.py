"""The state of the server for the control socket: its summary, and a row for each worker. Changes nothing."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gserver.arbiter.scoreboard import Scoreboard
from gserver.arbiter.stats_socket import document
from gserver.arbiter.supervision import Stage, Supervision
from gserver.config.settings import Settings

__all__ = ["ReloadRecord", "status_of", "worker_rows"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class ReloadRecord:
    """What became of the last reload. The counts are in the scoreboard (ServerFacts).

    Attributes:
        last: the last one; None: there was none.
    """

    last: dict[str, Any] | None = None
    _began_at: float = field(default=0.0, repr=False)

    def began(self) -> None:
        self._began_at = time.monotonic()

    def ended(self, failure: str | None, is_live: bool = False) -> None:
        self.last = {
            "at": time.time(),
            "seconds": time.monotonic() - self._began_at,
            "outcome": "done" if failure is None else "failed",
            "kind": "settings only" if is_live else "new workers",
            "reason": failure,
        }


def worker_rows(supervision: Supervision, scoreboard: Scoreboard) -> list[dict[str, Any]]:
    """A row for each worker, the oldest first: as in the stats document, with what the system knows of the process."""
    now = time.monotonic()
    rows = document(scoreboard, supervision)["workers"]
    for row in rows:
        child = supervision[row["pid"]]
        row["up_s"] = now - child.spawned_at
        row["is_to_be_replaced"] = child.needs_recycling
        row["rss_bytes"] = _rss_bytes(child.pid)
        row["open_files"] = _open_files(child.pid)
    return sorted(rows, key=lambda row: int(row["age"]))


def status_of(
    settings: Settings, supervision: Supervision, scoreboard: Scoreboard, reloads: ReloadRecord
) -> dict[str, Any]:
    """The summary of the server."""
    rows, summary = worker_rows(supervision, scoreboard), document(scoreboard, supervision)
    totals = summary["totals"]
    stages = [row["state"] for row in rows]
    return {
        "state": _state_of(supervision),
        "ready": summary["ready"],
        "not_ready_because": summary["not_ready_because"],
        "generation": supervision.generation,
        "workers": {
            "target": supervision.target,
            **{stage.value: stages.count(stage.value) for stage in Stage},
            "stuck": sum(row["stuck"] for row in rows),
        },
        "connections": {name: totals[name] for name in ("open", "accepted", "closed")},
        "messages": totals["messages"],
        "messages_per_s": sum(row["messages_per_s"] for row in rows),
        "errors": totals["errors"],
        "received_bytes": totals["received_bytes"],
        "sent_bytes": totals["sent_bytes"],
        "lag_s": max((row["lag_s"] for row in rows), default=0.0),
        "restarts": {cause.value: count for cause, count in scoreboard.server.restarts.items() if count},
        "reloads": {
            "done": scoreboard.server.reloads_succeeded,
            "failed": scoreboard.server.reloads_failed,
            "last": reloads.last,
        },
        "certificate_not_after": min(
            (row["certificate_not_after"] for row in rows if row["certificate_not_after"] is not None), default=None
        ),
        "limits": limits_of(settings, rows, totals),
    }


def limits_of(settings: Settings, rows: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The limits that are set, and how much of each is used. Of a limit of a worker: by the worker that uses most."""
    fullest = max(rows, key=lambda row: int(row["open"]), default=None)
    found = []
    if settings.max_connections:
        found.append(_limit("max_connections", totals["open"], settings.max_connections))
    if fullest is not None:
        found.append(_limit("worker_connections", fullest["open"], settings.worker_connections, fullest["pid"]))
    most_files = max(
        (row for row in rows if row["open_files"] is not None), key=lambda row: int(row["open_files"]), default=None
    )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files is not None and soft != resource.RLIM_INFINITY:
        found.append(_limit("open files", most_files["open_files"], soft, most_files["pid"]))
    return found


def _limit(name: str, used: int, limit: int, pid: int | None = None) -> dict[str, Any]:
    return {"name": name, "used": used, "limit": limit, "worker": pid}


def _state_of(supervision: Supervision) -> str:
    if supervision.is_stopping:
        return "stopping"
    if supervision.is_reloading:
        return "reloading"
    return "serving" if supervision.is_complete else "starting workers"


def _rss_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:  # it has ended
        return None


def _open_files(pid: int) -> int | None:
    folder = f"/proc/{pid}/fd"
    try:
        # From Linux 6.2 on, the size of this folder is the number of descriptors; listing it takes 5 ms for 15,000.
        return os.stat(folder).st_size or len(os.listdir(folder))
    except OSError:  # it has ended, or belongs to another user
        return None
