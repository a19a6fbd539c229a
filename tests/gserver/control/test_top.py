"""The screen of gserverctl top: what it shows, that it fits, and where it goes without a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

pytest.importorskip("rich", reason="gserverctl top needs rich")

from rich.console import Console

from gserver.control import top
from gserver.control.client import Unreachable
from gserver.control.top import Screen, show
from tests.gserver.control.test_text_output import CONNECTION, STATUS, WORKER

NOW = 1_800_000_000.0


def worker(pid: int, **fields: Any) -> dict[str, Any]:
    return {**WORKER, "pid": pid, **fields}


def connection(number: int, **fields: Any) -> dict[str, Any]:
    return {**CONNECTION, "id": f"4711-{number}", "bytes": 0, **fields}


class Server:
    def __init__(self, workers: int = 3, connections: int = 200) -> None:
        self.status: dict[str, Any] = STATUS
        self.workers = [worker(4711 + number) for number in range(workers)]
        self.connections = [connection(number, messages=number) for number in range(connections)]
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.ends_after: int | None = None

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((command, arguments))
        if self.ends_after is not None and len(self.asked) > self.ends_after:
            raise Unreachable("it has ended")
        rows = {"workers": self.workers, "connections": self.connections}.get(command)
        return self.status if rows is None else {"rows": rows, "count": len(rows)}


def shown(server: Server, width: int = 80, height: int = 24, screen: Screen | None = None, now: float = NOW) -> str:
    picture = (screen or Screen()).read(server, now, width, height)  # type: ignore[arg-type]
    output = io.StringIO()
    Console(file=output, width=width, height=height).print(picture)
    return output.getvalue()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 10), (200, 60)])
@pytest.mark.parametrize(("workers", "connections"), [(3, 200), (1, 0), (64, 200), (0, 0)])
def test_it_fits_on_the_screen(size: tuple[int, int], workers: int, connections: int) -> None:
    width, height = size
    server = Server(workers, connections)
    for row in server.connections:
        row |= {"peer": "[2001:db8:1234:5678:9abc:def0:1234:5678]:65000", "handler": "x" * 300, "state": "handling"}
    lines = shown(server, width, height).splitlines()

    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, top.OTHER_LINES + 2 * top.LEAST_ROWS)


def test_the_first_line_has_what_matters_most() -> None:
    first = shown(Server()).splitlines()[0]
    assert first.split("  ") == ["app:app", "serving, ready", "2/2 workers", "2 connections", "1,234 msg/s"]
    server = Server()
    server.status = {**STATUS, "ready": False, "not_ready_because": "no worker serves"}
    server.status["workers"] = {**STATUS["workers"], "stuck": 2}
    assert "not ready: no worker serves  2/2 workers, 2 stuck" in shown(server).splitlines()[0]


def test_at_80_columns_nothing_of_a_usual_connection_is_cut() -> None:
    server = Server(connections=1)
    text = shown(server)

    assert "…" not in text
    assert all(word in text for word in ("4711-0", "10.0.0.1:5000", "MSG/S", "BYTES/S", "IDLE", "1.5 s", "idle"))
    row = next(line for line in text.splitlines() if line.startswith("4711 "))
    assert row.split() == ["4711", "serving", "12,000", "7.2", "0", "2", "ms", "33", "MiB", "12,010"]


def test_the_busiest_connections_are_those_of_the_last_interval() -> None:
    server, screen = Server(connections=0), Screen()
    server.connections = [
        connection(1, messages=1000, age_s=10.0),
        connection(2, messages=0),
        connection(3, messages=1),
    ]
    before = shown(server, screen=screen)
    assert before.index("4711-1 ") < before.index("4711-3 ") < before.index("4711-2 ")
    server.connections[1]["messages"] = 50
    after = shown(server, screen=screen, now=NOW + 2)

    assert after.index("4711-2 ") < after.index("4711-1 ")
    assert [line.split()[:3] for line in after.splitlines() if "4711-2" in line] == [["4711-2", "10.0.0.1:5000", "25"]]


def test_candidates_are_those_with_most_messages_and_with_most_bytes() -> None:
    server = Server()
    shown(server)

    assert [arguments for command, arguments in server.asked if command == "connections"] == [
        {"sort": "messages", "limit": top.CANDIDATES},
        {"sort": "bytes", "limit": top.CANDIDATES},
    ]


def test_without_room_the_stuck_workers_and_the_busiest_are_shown() -> None:
    server = Server(workers=64)
    server.workers[40]["stuck"] = True
    server.workers[50]["messages_per_s"] = 9999.0
    text = shown(server)

    assert text.index(f"{4711 + 40} ") < text.index(f"{4711 + 50} ")
    assert "\nand 56 more" in text


def test_unsent_bytes_are_shown_where_there_are_some() -> None:
    server = Server(connections=3)
    assert "UNSENT" not in shown(server)
    server.connections[0]["outbox_bytes"] = 5000
    assert "4.88 KiB" in shown(server)


def test_names_of_others_are_no_markup_and_do_not_control_the_terminal() -> None:
    server = Server(connections=1)
    server.connections[0] |= {"handler": "[red]\x1b[2Jf\nx[/red] (app.py:1)", "state": "handling"}
    server.status = {**STATUS, "name": "[bold]app[/bold]"}
    text = shown(server, 120)

    assert "[red]?[2Jf?x[/red] (app.py:1)" in text
    assert "[bold]app[/bold]" in text
    assert "\x1b" not in text


def test_no_connections_are_a_line() -> None:
    assert "no connections" in shown(Server(connections=0))


def test_without_a_terminal_each_reading_is_text() -> None:
    written: list[str] = []
    console = Console(file=io.StringIO(), width=80)
    show(Server(), 0.001, written.append, 2, console)  # type: ignore[arg-type]

    assert len(written) == 2
    assert all(text.startswith("app:app  serving, ready") and text.endswith("\n\n") for text in written)
    assert not any("\x1b" in text or " \n" in text for text in written)


def test_a_terminal_is_restored_when_the_server_ends() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, height=24)
    server = Server()
    server.ends_after = 8
    with pytest.raises(Unreachable):
        show(server, 0.001, pytest.fail, None, console)  # type: ignore[arg-type]

    enter, leave, show_cursor = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
    assert output.getvalue().index(enter) < output.getvalue().rindex(leave)
    assert show_cursor in output.getvalue()[output.getvalue().rindex(leave) - 20 :]
