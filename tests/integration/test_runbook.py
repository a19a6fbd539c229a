"""The runbook of docs/operations.md, played with a service that really gets into each trouble (examples/trouble.py).

Each test makes a trouble, runs the commands of the page in their order, compares their output with the page, and checks
that the trouble is over. Only gserverctl finds it and mends it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.processes import PATIENCE_S, wait_for
from tests.helpers.runbook import CULPRIT, PAGE, Asking, Case, Troubled, cases

pytestmark = pytest.mark.long

#: A delay that the other clients of a slow worker notice, in seconds; examples/trouble.py computes for 0.2 s.
NOTICED_S = 0.1


def names_a_client(row: dict[str, object], address: str = CULPRIT) -> bool:
    return row["address"] == address


def connection_of(server: Troubled, address: str = CULPRIT) -> dict[str, object]:
    wait_for(lambda: any(names_a_client(row, address) for row in server.connection_rows()), f"{address} is connected")
    return next(row for row in server.connection_rows() if names_a_client(row, address))


def worker_of(server: Troubled) -> int:
    return int(str(connection_of(server)["worker"]))


def stuck_worker(server: Troubled) -> int:
    (pid,) = [row["pid"] for row in server.worker_rows() if row["stuck"]]
    return int(pid)


@contextlib.contextmanager
def idle_clients(server: Troubled, count: int, address: str) -> Iterator[list[socket.socket]]:
    """Clients that have sent one line each, and stay; also those that the server refuses."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(server.address, PATIENCE_S, (address, 0)))
            with contextlib.suppress(OSError):
                sock.sendall(b"hello\n")
            sockets.append(sock)
        yield sockets


def test_each_case_of_the_runbook_is_played() -> None:
    source = Path(__file__).read_text()

    assert [heading for heading in cases() if f'"{heading}"' not in source] == []


def test_the_first_look(tmp_path: Path) -> None:
    with Troubled(tmp_path) as server, Asking(server, "hello", count=4):
        case = Case(server, "The first look")
        case.play(5)
        case.end()


def test_a_handler_computes(tmp_path: Path) -> None:
    with Troubled(tmp_path) as server, ExitStack() as stack:
        others = stack.enter_context(Asking(server, "hello", count=20, pause_s=0.07))
        # Each worker has some of them before one gets slow: later it would accept few.
        wait_for(lambda: min(row["open"] for row in server.worker_rows()) > 0, "both workers have connections")
        stack.enter_context(Asking(server, "search red shoes", source=CULPRIT))
        slow = worker_of(server)
        wait_for(lambda: len(others.latencies()) > 0, "the others are served")
        wait_for(lambda: max(others.latencies(), default=0.0) > NOTICED_S, "they notice")
        case = Case(server, "Slow: a handler computes", worker=lambda: slow)
        case.play(4)
        server.wait_for_log(rf"The event loop was blocked .*: {CULPRIT}:\d+ \({slow}-\d+\) in trouble.on_message")
        case.play(3)
        others.latencies()
        wait_for(lambda: len(others.latencies()) > 5, "the others are served")
        wait_for(lambda: 0 < statistics.median(others.latencies() or [1.0]) < NOTICED_S, "nobody notices any more")
        server.service.write_text(server.service.read_text().replace("SEARCH_S = 0.2", "SEARCH_S = 0.0"))
        case.play(1)
        case.play(1)
        wait_for(lambda: server.status["workers"]["serving"] == 3, "there is one worker more")
        case.end()


def test_handlers_wait(tmp_path: Path) -> None:
    with (
        Troubled(tmp_path) as server,
        Asking(server, "hello", count=4),
        Asking(server, "order 66", count=3, source=CULPRIT),
    ):
        wait_for(lambda: len(server.connection_rows("state=handling,handling>5")) == 3, "three handlers wait")
        case = Case(
            server,
            "Slow: handlers wait",
            worker=lambda: worker_of(server),
            connection=lambda: str(server.call("connections", sort="handling", limit=1)["rows"][0]["id"]),
        )
        case.play(4)
        assert server.status["connections"]["closed"] == {"administrative": 3}
        case.play(1)
        wait_for(lambda: server.status["connections"]["closed"].get("handler_timeout", 0) >= 3, "the new ones time out")
        case.end()


def test_full(tmp_path: Path) -> None:
    with (
        Troubled(tmp_path, "--worker-connections", "100", "--max-connections", "150") as server,
        idle_clients(server, 170, CULPRIT),
        idle_clients(server, 20, "127.0.0.1"),
    ):
        wait_for(lambda: server.status["connections"]["closed"].get("full", 0) == 40, "clients are turned away")
        case = Case(server, "Full: connections")
        case.play(4)
        wait_for(lambda: server.status["connections"]["open"] == 0, "its connections are closed")
        with idle_clients(server, 40, CULPRIT), idle_clients(server, 10, "127.0.0.1"):
            wait_for(lambda: len(server.connection_rows("addr=127.0.0.1")) == 10, "the others are served")
            wait_for(lambda: len(server.connection_rows(f"addr={CULPRIT}")) == 20, "it has 20 at most")
        case.play(3)
        case.end()


def test_without_descriptors(tmp_path: Path) -> None:
    limited = ("bash", "-c", 'ulimit -n 64 && exec "$@"', "bash")
    with Troubled(tmp_path, workers=1, command=limited) as server:
        with idle_clients(server, 80, CULPRIT):
            wait_for(lambda: server.status["connections"]["closed"].get("full", 0) > 0, "clients are turned away")
            case = Case(server, "Full: open files")
            case.play(2)
            wait_for(lambda: server.status["workers"]["serving"] == 2, "there is one worker more")
            with idle_clients(server, 10, "127.0.0.1"):
                wait_for(lambda: len(server.connection_rows("addr=127.0.0.1")) == 10, "the others are served")
            wait_for(lambda: len(server.connection_rows(f"addr={CULPRIT},idle>1")) > 40, "they are idle for a second")
            case.play(1)
            wait_for(lambda: server.status["connections"]["closed"].get("administrative", 0) > 40, "they are closed")
        case.end()


def test_stuck(tmp_path: Path) -> None:
    with (
        Troubled(tmp_path) as server,
        Asking(server, "hello", count=8, pause_s=0.2) as others,
        Asking(server, "loop", source=CULPRIT),
    ):
        wait_for(lambda: server.status["workers"]["stuck"] == 1, "a worker is stuck")
        stuck = stuck_worker(server)
        case = Case(server, "Stuck", worker=lambda: stuck)
        case.play(3)
        case.play(2)
        wait_for(lambda: stuck not in [row["pid"] for row in server.worker_rows()], "it is killed")
        case.play(1)
        others.latencies()
        wait_for(lambda: len(others.latencies()) > 0, "all are served")
        case.end()


def test_leaking(tmp_path: Path) -> None:
    with (
        Troubled(tmp_path) as server,
        Asking(server, "hello", count=4, pause_s=0.2),
        Asking(server, "store pictures", pause_s=0.03, source=CULPRIT),
    ):
        leaking = worker_of(server)

        def memory(pid: int) -> int:
            return next((row["rss_bytes"] for row in server.worker_rows() if row["pid"] == pid), 0)

        wait_for(lambda: memory(leaking) > 120 << 20, "the memory grows")
        case = Case(server, "Leaking", worker=lambda: leaking)
        case.play(4)
        wait_for(lambda: leaking not in [row["pid"] for row in server.worker_rows()], "it is replaced")
        # From now on the server replaces each worker that grows, without an operator.
        wait_for(lambda: server.status["restarts"].get("recycled", 0) >= 3, "it is replaced again", 90)
        case.play(1)
        case.end()


def test_crashing(tmp_path: Path) -> None:
    with (
        Troubled(tmp_path) as server,
        Asking(server, "hello", count=4, pause_s=0.2),
        Asking(server, "crash", before_s=4.0, source=CULPRIT),
    ):
        wait_for(lambda: server.status["restarts"].get("signal", 0) >= 2, "workers crash")
        case = Case(server, "Crashing")
        case.play(3)
        case.play(2)
        wait_for(lambda: server.status["workers"]["serving"] == 2, "both workers serve")
        crashes = server.status["restarts"]["signal"]
        denied = server.status["connections"]["closed"].get("denied", 0)
        wait_for(lambda: server.status["connections"]["closed"].get("denied", 0) >= denied + 5, "it is refused")
        assert server.status["restarts"]["signal"] == crashes
        case.play(1)
        case.end()
    # The Python code in which a worker crashed is on standard error.
    (output,) = tmp_path.glob("gserver-*.log")
    assert re.search(r"Segmentation fault(?s:.*)trouble.py\", line \d+ in crash", output.read_text())


def test_a_reload_has_failed(tmp_path: Path) -> None:
    with Troubled(tmp_path) as server, Asking(server, "hello", count=2) as others:
        good = server.service.read_text()
        server.service.write_text(good + "import missing_package\n")
        case = Case(server, "A reload has failed")
        case.play(2)
        others.latencies()
        wait_for(lambda: len(others.latencies()) > 0, "the old workers serve")
        server.service.write_text(good)
        case.play(1)
        case.end()


def test_taken_out_and_upgraded(tmp_path: Path) -> None:
    with Troubled(tmp_path, "--pid", "gserver.pid") as server, Asking(server, "hello", count=2) as others:
        case = Case(server, "Out of the load balancer")
        case.play(2)
        others.latencies()
        wait_for(lambda: len(others.latencies()) > 0, "clients are still served")
        case.play(2)
        case.end()
        case = Case(server, "A new interpreter or a fixed setting")
        old = server.status["pid"]
        case.play(1)
        assert server.status["pid"] != old
        others.latencies()
        wait_for(lambda: len(others.latencies()) > 0, "clients are served")
        case.play(1)
        case.end()
        wait_for(lambda: not os.path.exists(server.path), "it has ended")


def test_each_alert_has_its_case() -> None:
    yaml = pytest.importorskip("yaml")
    rules = yaml.safe_load((PAGE.parents[1] / "examples/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    page = PAGE.read_text("utf-8")

    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in page] == []
