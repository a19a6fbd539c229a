"""The state of the server for the control socket."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

import pytest

from gserver.arbiter.restart_causes import RestartCause
from gserver.arbiter.scoreboard import Scoreboard, Slot
from gserver.arbiter.server_status import ReloadRecord, limits_of, status_of, worker_rows
from gserver.arbiter.supervision import Supervision
from gserver.config.settings import Settings
from gserver.counters import Counters
from gserver.errors import CloseReason


class Server:
    """A scoreboard and the records of workers; the first one is this process, the others do not exist."""

    def __init__(self, workers: int = 2) -> None:
        self.scoreboard = Scoreboard(1000)
        self.supervision = Supervision(workers)
        self.slots: list[Slot] = []
        self.pids = [os.getpid(), *range(2**30, 2**30 + workers - 1)][:workers]
        for age, pid in enumerate(self.pids, 1):
            slot = self.scoreboard.free_slot()
            slot.reserve(age=age)
            slot.assign(pid)
            self.slots.append(slot)
            self.supervision.spawned(pid, time.monotonic() - 10.0, age=age)

    def status(self, reloads: ReloadRecord | None = None, **settings: Any) -> dict[str, Any]:
        checked = Settings.checked(settings)
        return status_of(checked, self.supervision, self.scoreboard, reloads or ReloadRecord())


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_row_for_each_worker_with_what_the_system_knows(server: Server) -> None:
    server.supervision.request_recycling(server.pids[1])
    own, gone = worker_rows(server.supervision, server.scoreboard)

    assert [own["pid"], gone["pid"]] == server.pids
    assert 10.0 <= own["up_s"] < 20.0
    assert own["rss_bytes"] > 1 << 20
    assert abs(own["open_files"] - len(os.listdir("/proc/self/fd"))) < 5
    assert (gone["rss_bytes"], gone["open_files"]) == (None, None)
    assert (own["is_to_be_replaced"], gone["is_to_be_replaced"]) == (False, True)


def test_the_summary_counts_workers_and_connections(server: Server) -> None:
    counters = Counters(server.slots[0].cells)
    counters.opened()
    counters.opened()
    counters.ended(CloseReason.PEER_EOF)
    starting = server.status()
    for pid in server.pids:
        server.supervision.became_ready(pid, 0.0)
    server.supervision.decide(0.0, {})
    serving = server.status()

    assert starting["state"] == "starting workers"
    assert starting["workers"] == {"target": 2, "booting": 2, "ready": 0, "serving": 0, "draining": 0, "stuck": 0}
    assert serving["state"] == "serving"
    assert serving["workers"]["serving"] == 2
    assert serving["connections"] == {"open": 1, "accepted": 2, "closed": {"peer_eof": 1}}
    assert (serving["restarts"], serving["reloads"]) == ({}, {"done": 0, "failed": 0, "last": None})


def test_the_summary_counts_the_workers_that_were_replaced_by_cause(server: Server) -> None:
    for cause in (RestartCause.SIGNAL, RestartCause.SIGNAL, RestartCause.TIMEOUT):
        server.scoreboard.server.restarted(cause)

    assert server.status()["restarts"] == {"signal": 2, "timeout": 1}


def test_a_server_that_reloads_or_stops(server: Server) -> None:
    for pid in server.pids:
        server.supervision.became_ready(pid, 0.0)
    server.supervision.decide(0.0, {})
    server.supervision.begin_reload(2, 0.0)
    assert server.status()["state"] == "reloading"
    server.supervision.stop(0.0, 30.0)

    assert server.status()["state"] == "stopping"


def test_limits_have_what_is_used_of_them() -> None:
    rows: list[dict[str, Any]] = [{"pid": 1, "open": 7, "open_files": 20}, {"pid": 2, "open": 9, "open_files": None}]
    settings = Settings.checked({"worker_connections": 10, "max_connections": 100})
    found = {each["name"]: each for each in limits_of(settings, rows, {"open": 16})}
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert found["max_connections"] == {"name": "max_connections", "used": 16, "limit": 100, "worker": None}
    assert found["worker_connections"] == {"name": "worker_connections", "used": 9, "limit": 10, "worker": 2}
    assert found["open files"] == {"name": "open files", "used": 20, "limit": soft, "worker": 1}
    assert limits_of(Settings.checked({}), [], {"open": 0}) == []


def test_what_became_of_the_reloads() -> None:
    reloads = ReloadRecord()
    reloads.began()
    reloads.ended("SyntaxError")
    failed = reloads.last
    reloads.began()
    reloads.ended(None)

    assert failed is not None
    assert (failed["outcome"], failed["reason"], failed["kind"]) == ("failed", "SyntaxError", "new workers")
    assert reloads.last is not None
    assert (reloads.last["outcome"], reloads.last["reason"]) == ("done", None)
    assert 0.0 <= reloads.last["seconds"] < 10.0
    assert abs(reloads.last["at"] - time.time()) < 10.0
    reloads.ended(None, is_live=True)
    assert reloads.last["kind"] == "settings only"
