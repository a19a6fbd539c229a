"""JsonService without a socket: routing by type, shapes, and error replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest

from gserver.codecs import JsonLines, Lines, Malformed
from gserver.codecs.malformed import MalformedError
from gserver.errors import FrameTooLarge
from gserver.json_service import JsonService


class Conn:
    """A connection that no handler uses."""


CONN: Any = Conn()


class Sum(msgspec.Struct):
    a: float
    b: float


@dataclass
class Point:
    x: int
    label: str = "none"


class Named(TypedDict):
    name: str


def make_api() -> JsonService:
    api = JsonService()

    @api.on("ECHO")
    def echo(message: dict[str, Any], conn: Any) -> dict[str, Any]:
        return message

    @api.on("SUM", Sum)
    def add(message: Sum, conn: Any) -> dict[str, float]:
        return {"result": message.a + message.b}

    @api.on("POINT", Point)
    def point(message: Point, conn: Any) -> dict[str, Any]:
        return {"x": message.x, "label": message.label}

    @api.on("NAMED", Named)
    def named(message: Named, conn: Any) -> dict[str, Any]:
        return {"name": message["name"]}

    @api.on("QUIET")
    def quiet(message: dict[str, Any], conn: Any) -> None:
        return None

    @api.on("WHO")
    def who(message: dict[str, Any], conn: Any) -> dict[str, bool]:
        return {"same": conn is CONN}

    return api


def reply_to(message: Any) -> Any:
    """The reply to a message, as the message loop gets it."""
    return reply_of(make_api(), message)


def reply_of(api: JsonService, message: Any) -> Any:
    try:
        return api.on_message(message, CONN)
    except MalformedError as error:
        return api.on_error(error.malformed, CONN)


def error(text: str) -> dict[str, str]:
    return {"status": "ERROR", "message": text}


def test_the_type_chooses_the_handler() -> None:
    assert reply_to({"type": "ECHO", "x": [1]}) == {"type": "ECHO", "x": [1]}
    assert reply_to({"type": "SUM", "a": 1, "b": 2}) == {"result": 3}
    assert reply_to({"type": "QUIET"}) is None


def test_the_handler_gets_the_connection() -> None:
    assert reply_to({"type": "WHO"}) == {"same": True}


@pytest.mark.parametrize("type_", ["", "sum", "SUM ", "UNKNOWN", None, 1, True, 1.5, [], ["SUM"], {"SUM": 1}])
def test_another_type_is_unknown(type_: Any) -> None:
    assert reply_to({"type": type_, "a": 1, "b": 2}) == error("Unknown type")


@pytest.mark.parametrize("message", [{}, {"Type": "SUM"}, [], ["type"], "type", "SUM", 1, 2.5, None, True, [["type"]]])
def test_a_message_without_a_type_is_unknown(message: Any) -> None:
    assert reply_to(message) == error("Unknown type")


def test_a_handler_that_fails_looking_something_up_is_not_an_unknown_type() -> None:
    api = JsonService()

    @api.on("FAIL")
    def fail(message: dict[str, Any], conn: Any) -> None:
        raise KeyError("type")

    with pytest.raises(KeyError):
        api.on_message({"type": "FAIL"}, CONN)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "SUM", "a": 1}, "Object missing required field `b`"),
        ({"type": "SUM", "a": 1, "b": "2"}, "Expected `float`, got `str` - at `$.b`"),
        ({"type": "SUM", "a": None, "b": 2}, "Expected `float`, got `null` - at `$.a`"),
        ({"type": "POINT", "x": 1.5}, "Expected `int`, got `float` - at `$.x`"),
        ({"type": "POINT", "x": 1, "label": 2}, "Expected `str`, got `int` - at `$.label`"),
        ({"type": "NAMED"}, "Object missing required field `name`"),
    ],
)
def test_a_message_of_another_shape_is_refused_with_the_field_that_is_wrong(message: Any, text: str) -> None:
    assert reply_to(message) == error(text)


def test_shapes_may_be_structs_dataclasses_and_typed_dicts() -> None:
    assert reply_to({"type": "POINT", "x": 3}) == {"x": 3, "label": "none"}
    assert reply_to({"type": "NAMED", "name": "Ada"}) == {"name": "Ada"}


def test_fields_that_no_shape_names_are_ignored() -> None:
    assert reply_to({"type": "SUM", "a": 1, "b": 2, "c": 3}) == {"result": 3}


def test_a_type_has_one_handler() -> None:
    api = make_api()
    with pytest.raises(ValueError, match=r"^type 'SUM' already has a handler: "):
        api.on("SUM")(lambda message, conn: None)


def test_a_handler_stays_the_function_it_was() -> None:
    def handler(message: Any, conn: Any) -> None:
        return None

    api = JsonService()

    assert api.on("PLAIN")(handler) is handler
    assert api.on("SHAPED", Sum)(handler) is handler


def test_one_handler_may_serve_several_types() -> None:
    api = JsonService()

    @api.on("HELLO")
    @api.on("HI")
    def greet(message: dict[str, Any], conn: Any) -> str:
        return "greeted"

    assert [api.on_message({"type": type_}, CONN) for type_ in ("HELLO", "HI")] == ["greeted"] * 2


def test_two_services_do_not_share_their_handlers() -> None:
    make_api()

    assert reply_of(JsonService(), {"type": "SUM", "a": 1, "b": 2}) == error("Unknown type")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Malformed("Invalid JSON", "byte 3"), "Invalid JSON"),
        (FrameTooLarge("line of 9 bytes, the limit is 5"), "line of 9 bytes, the limit is 5"),
        (RuntimeError("password is 1234"), "Internal error"),
    ],
)
def test_error_replies_do_not_contain_secrets(fault: Any, text: str) -> None:
    assert make_api().on_error(fault, CONN) == error(text)


def test_the_default_codec_is_json_lines() -> None:
    assert JsonService().codec is JsonLines
    assert JsonService(codec=Lines).codec is Lines


def test_hooks_are_kept() -> None:
    def on_open(conn: Any) -> None:
        return None

    assert JsonService(on_open=on_open).on_open is on_open
