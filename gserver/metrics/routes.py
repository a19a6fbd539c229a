"""The WSGI application: /metrics, /livez, /readyz and the page. It only reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from gserver.arbiter.health import Verdict
from gserver.arbiter.scoreboard import Scoreboard
from gserver.config.settings import Settings
from gserver.metrics.prometheus_text import CONTENT_TYPE, as_prometheus_text
from gserver.metrics.readings import Readings, read
from gserver.metrics.status_page import as_page

__all__ = ["make_application"]

log = logging.getLogger("gserver.metrics")

_TEXT = "text/plain; charset=utf-8"
_METHODS = ("GET", "HEAD")
#: No browser stores an answer, guesses its type, frames it, or loads anything for it.
_HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("Connection", "close"),
]
#: Status, content type and body.
Answer = tuple[str, str, str]


def make_application(
    scoreboard: Scoreboard, settings: Settings
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Return the WSGI application for a server."""
    routes: dict[str, Callable[[Readings], Answer]] = {
        "/": lambda readings: ("200 OK", "text/html; charset=utf-8", as_page(readings)),
        "/metrics": lambda readings: ("200 OK", CONTENT_TYPE, as_prometheus_text(readings)),
        "/livez": lambda readings: _health(readings.liveness),
        "/readyz": lambda readings: _health(readings.readiness),
    }

    def answer(method: str, path: str) -> Answer:
        route = routes.get(path)
        if route is None:
            return "404 Not Found", _TEXT, f"not found: there are {', '.join(routes)}\n"
        if method not in _METHODS:
            return "405 Method Not Allowed", _TEXT, f"allowed are {' and '.join(_METHODS)}\n"
        try:
            return route(read(scoreboard, settings))
        except Exception:
            log.exception("The answer to %s failed", path)
            return "500 Internal Server Error", _TEXT, "the log of the server has the reason\n"

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, content_type, text = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        body = text.encode()
        allow = [("Allow", ", ".join(_METHODS))] if status.startswith("405") else []
        start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body))), *allow, *_HEADERS])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


def _health(verdict: Verdict) -> Answer:
    return ("200 OK" if verdict.is_good else "503 Service Unavailable"), _TEXT, verdict.reason + "\n"
