"""json: newline-framed JSON that greets and adds, as JavaScript would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gserver.handlers.javascript import EXACT, add
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
    """Return the service: {"type":"GREETING","name":...} is greeted, {"type":"SUM","a":...,"b":...} is added up.

    A sum that is no finite number is an error.
    """
    api = JsonService()

    @api.on("GREETING", Greeting)
    def greet(message: Greeting, conn: Connection) -> dict[str, Any]:
        return {"status": "OK", "reply": f"Hello, {message.name}!"}

    @api.on("SUM", Sum)
    def add_up(message: Sum, conn: Connection) -> dict[str, Any]:
        a, b = message.a, message.b
        if -EXACT < a < EXACT and -EXACT < b < EXACT and type(total := a + b) is int:
            return {"status": "OK", "result": total}
        text = add(a, b)
        if text is None:
            return {"status": "ERROR", "message": "The sum is not a finite number"}
        return {"status": "OK", "result": text}

    return api
