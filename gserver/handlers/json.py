"""json: newline-framed JSON that greets and adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gserver.service import JsonService

if TYPE_CHECKING:
    from gserver.connection import Connection

__all__ = ["json"]


class Greeting(msgspec.Struct):
    name: str


class Sum(msgspec.Struct):
    a: int | float
    b: int | float


def json() -> JsonService:
    """Return the service: {"type":"GREETING","name":...} is greeted, {"type":"SUM","a":...,"b":...} is added up."""
    api = JsonService()

    @api.on("GREETING", Greeting)
    def greet(message: Greeting, conn: Connection) -> dict[str, Any]:
        return {"status": "OK", "reply": f"Hello, {message.name}!"}

    @api.on("SUM", Sum)
    def add(message: Sum, conn: Connection) -> dict[str, Any]:
        return {"status": "OK", "result": message.a + message.b}

    return api
