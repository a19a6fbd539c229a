from __future__ import annotations

import logging
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

from gserver.arbiter.scoreboard import Scoreboard
from gserver.config.settings import Settings
from gserver.metrics.routes import make_application
from tests.gserver.metrics.boards import make_board


def call(board: Scoreboard, path: str, method: str = "GET") -> tuple[str, dict[str, str], str]:
    """Call the application; return status, headers and body."""
    started: list[Any] = []
    body = make_application(board, Settings())(
        {"REQUEST_METHOD": method, "PATH_INFO": path}, lambda *arguments: started.extend(arguments)
    )
    return started[0], dict(started[1]), b"".join(body).decode()


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "gserver_workers_serving 2.0\n"),
        ("/livez", "text/plain; charset=utf-8", "2 of 2 workers serve and have a recent heartbeat\n"),
        ("/readyz", "text/plain; charset=utf-8", "2 workers serve\n"),
    ],
)
def test_each_path_has_its_answer(path: str, kind: str, part: str) -> None:
    status, headers, body = call(make_board(), path)

    assert (status, headers["Content-Type"]) == ("200 OK", kind)
    assert part in body
    assert headers["Content-Length"] == str(len(body.encode()))
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_is_503_and_one_line_with_the_reason(path: str) -> None:
    status, _, body = call(make_board(workers=0), path)

    assert status == "503 Service Unavailable"
    assert body.count("\n") == 1


def test_a_server_that_is_taken_out_is_alive_and_not_ready() -> None:
    board = make_board()
    board.server.is_taken_out = True

    assert call(board, "/livez")[0] == "200 OK"
    assert call(board, "/readyz")[0] == "503 Service Unavailable"
    assert "gserver_ready 0.0\n" in call(board, "/metrics")[2]


def test_head_has_the_headers_of_get_without_the_body() -> None:
    board = make_board()
    status, headers, body = call(board, "/readyz", "HEAD")

    assert (status, headers, body) == (*call(board, "/readyz")[:2], "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"])
def test_other_methods_are_not_allowed(method: str) -> None:
    status, headers, _ = call(make_board(), "/metrics", method)

    assert (status, headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")


@pytest.mark.parametrize("path", ["", "/x", "/metrics/", "//", "/../metrics", "/metrics\0"])
def test_other_paths_are_not_found(path: str) -> None:
    assert call(make_board(), path)[0] == "404 Not Found"


def test_an_exception_is_logged_and_answered(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("gserver.metrics.routes.as_page", lambda readings: 1 / 0)
    with caplog.at_level(logging.ERROR):
        status, _, body = call(make_board(), "/")

    assert status == "500 Internal Server Error"
    assert "ZeroDivisionError" in caplog.text
    assert "Zero" not in body
