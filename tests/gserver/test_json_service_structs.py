"""JsonService with handlers whose annotation is the type of the message, on every codec that carries data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union

import msgspec
import pytest

from gserver.codecs import Codec, JsonContentLength, JsonLines, Malformed, MsgPack
from gserver.codecs.malformed import MalformedError
from gserver.errors import DeclarationError
from gserver.json_service import JsonService
from gserver.service import Fault
from tests.helpers.serving import Peer, Serving

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

CODECS: list[Callable[[], Codec]] = [JsonLines, JsonContentLength, MsgPack]
T = TypeVar("T")


class Sum(msgspec.Struct, tag="SUM"):
    a: float
    b: float


class Greeting(msgspec.Struct, tag="GREETING"):
    name: str


class Total(msgspec.Struct):
    result: float


class Untagged(msgspec.Struct):
    name: str


@dataclass
class Point:
    x: int


def make_api(codec: Callable[[], Codec] = JsonLines, **options: Any) -> JsonService:
    api = JsonService(codec, **options)

    @api.on
    def add(message: Sum, conn: Connection) -> Total:
        return Total(message.a + message.b)

    @api.on
    def greet(message: Greeting, conn: Connection) -> dict[str, str]:
        return {"reply": f"Hello, {message.name}!"}

    return api


def replies_to(api: JsonService, *messages: Any) -> list[Any]:
    """Encode the messages, decode them with the service's codec, and return what the message loop would answer."""
    client, codec, replies = api.codec(), api.codec(), []
    codec.receive(b"".join(map(client.encode, messages)))
    for message in codec.messages():
        if isinstance(message, Malformed):
            replies.append(api.on_error(message, None))  # type: ignore[arg-type]
            continue
        try:
            replies.append(api.on_message(message, None))  # type: ignore[arg-type]
        except MalformedError as error:
            replies.append(api.on_error(error.malformed, None))  # type: ignore[arg-type]
    return [msgspec.to_builtins(reply) for reply in replies]


def error(text: str) -> dict[str, str]:
    return {"status": "ERROR", "message": text}


@pytest.mark.parametrize("codec", CODECS)
def test_the_annotation_chooses_the_handler(codec: Callable[[], Codec]) -> None:
    messages = {"type": "SUM", "a": 1, "b": 2}, {"type": "GREETING", "name": "Ada"}, Sum(3, 4)

    assert replies_to(make_api(codec), *messages) == [{"result": 3}, {"reply": "Hello, Ada!"}, {"result": 7}]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "SUM", "a": 1}, "Object missing required field `b`"),
        ({"type": "SUM", "a": 1, "b": "2"}, "Expected `float`, got `str` - at `$.b`"),
        ({"type": "NOPE"}, "Invalid value 'NOPE' - at `$.type`"),
        ({"a": 1}, "Object missing required field `type`"),
        ([1], "Expected `object`, got `array`"),
        (1, "Expected `object`, got `int`"),
    ],
)
def test_an_invalid_message_is_answered_with_the_field_that_is_wrong(
    codec: Callable[[], Codec], message: Any, text: str
) -> None:
    assert replies_to(make_api(codec), message) == [error(text)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("other", [False, True], ids=["structs alone", "with a type by name"])
def test_on_error_gets_the_invalid_message_as_malformed(codec: Callable[[], Codec], other: bool) -> None:
    faults: list[Fault] = []

    def on_error(fault: Fault, conn: Connection) -> list[str]:
        faults.append(fault)
        return ["refused"]

    api = make_api(codec, on_error=on_error)
    if other:
        api.on("OTHER")(lambda message, conn: message)

    assert replies_to(api, {"type": "SUM", "a": 1, "b": "2"}, {"type": "?"}) == [["refused"], ["refused"]]
    assert all(isinstance(fault, Malformed) for fault in faults)
    assert isinstance(faults[0], Malformed)
    assert faults[0].message == "Expected `float`, got `str` - at `$.b`"


def test_handlers_of_both_kinds_may_be_in_one_service() -> None:
    api = make_api()

    @api.on("POINT", Point)
    def point(message: Point, conn: Connection) -> list[int]:
        return [message.x]

    @api.on("ECHO")
    def echo(message: dict[str, Any], conn: Connection) -> dict[str, Any]:
        return message

    messages = {"type": "SUM", "a": 1, "b": 2}, {"type": "POINT", "x": 5}, {"type": "ECHO"}, {"type": "SUM"}
    expected = [{"result": 3}, [5], {"type": "ECHO"}, error("Object missing required field `a`")]
    assert replies_to(api, *messages) == expected


def test_a_codec_without_types_delivers_plain_values_which_are_converted() -> None:
    class PlainJson(JsonLines):
        def __init__(self) -> None:
            super().__init__(max_bytes=100)

    api = make_api(PlainJson)

    assert api.codec is PlainJson
    assert replies_to(api, {"type": "SUM", "a": 1, "b": 2}, {"type": "NOPE"}) == [{"result": 3}, error("Unknown type")]


def test_options_of_the_codec_are_kept() -> None:
    api = make_api(functools.partial(JsonLines, max_bytes=10, overflow="discard"))

    assert replies_to(api, {"type": "SUM", "a": 1, "b": 2}) == [error("line of 26 bytes, the limit is 10")]


def test_a_union_is_one_handler_for_several_types() -> None:
    for union in (Sum | Greeting, Union[Sum, Greeting]):  # noqa: UP007  # both spellings
        api = JsonService()

        def name_of(message: Any, conn: Connection) -> str:
            return type(message).__name__

        name_of.__annotations__["message"] = union
        api.on(name_of)

        assert replies_to(api, Sum(1, 2), Greeting("Ada")) == ["Sum", "Greeting"]


def test_structs_of_a_function_are_found() -> None:
    class Local(msgspec.Struct, tag="LOCAL"):
        x: int

    api = JsonService()

    @api.on
    def local(message: Local, conn: Connection) -> int:
        return message.x

    assert replies_to(api, Local(3)) == [3]


@pytest.mark.parametrize(
    ("options", "codecs"),
    [
        ({"tag": 1}, CODECS),
        ({"tag": "A", "tag_field": "kind"}, CODECS),
        ({"tag": "A", "array_like": True}, CODECS),
        ({"tag": 7, "array_like": True, "tag_field": "op"}, CODECS),
    ],
)
def test_any_tag_of_msgspec_may_be_used(options: dict[str, Any], codecs: list[Callable[[], Codec]]) -> None:
    message_type = msgspec.defstruct("Move", [("x", int)], **options)

    def move(message: Any, conn: Connection) -> int:
        return int(message.x)

    move.__annotations__["message"] = message_type
    for codec in codecs:
        api = JsonService(codec)
        api.on(move)

        assert replies_to(api, message_type(5), api.probe) == [5, error("Unknown type")]


def test_the_default_probe_is_answered_and_one_of_the_users_own_is_kept() -> None:
    api = make_api()
    assert replies_to(api, api.probe) == [error("Unknown type")]

    api = make_api(probe=Sum(1, 2))
    assert api.probe == Sum(1, 2)

    api = make_api(probe=None)
    assert api.probe is None


def without_annotation(message, conn):  # type: ignore[no-untyped-def]
    return message


def of_a_dict(message: dict[str, Any], conn: Connection) -> None: ...
def of_no_tag(message: Untagged, conn: Connection) -> None: ...
def of_a_dataclass(message: Point, conn: Connection) -> None: ...
def of_an_unknown_name(message: Nowhere, conn: Connection) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def with_one_argument(message: Sum) -> None: ...


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (without_annotation, "the handler without_annotation has no annotation for its message"),
        (of_a_dict, "the handler of_a_dict has the annotation dict[str, typing.Any] for its message"),
        (of_no_tag, "Untagged, has no tag: write class Untagged(msgspec.Struct, tag='UNTAGGED')"),
        (of_a_dataclass, "the handler of_a_dataclass has the annotation Point for its message"),
        (of_an_unknown_name, "the annotation 'Nowhere' of of_an_unknown_name cannot be evaluated: NameError"),
        (with_one_argument, "which cannot be called with 2 arguments"),
    ],
)
def test_a_handler_that_cannot_be_used_is_refused_with_the_users_line(handler: Any, text: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        JsonService().on(handler)

    assert text in str(caught.value)
    assert __file__ in str(caught.value)


def test_a_type_has_one_handler() -> None:
    api = make_api()

    def again(message: Sum, conn: Connection) -> None: ...

    with pytest.raises(ValueError, match=r"^type 'SUM' already has a handler: "):
        api.on(again)
    with pytest.raises(ValueError, match=r"^type 'SUM' already has a handler: "):
        api.on("SUM")(again)


def test_structs_that_cannot_be_told_apart_are_refused() -> None:
    class Move(msgspec.Struct, tag="MOVE", tag_field="kind"):
        x: int

    api = make_api()

    def move(message: Move, conn: Connection) -> None: ...

    with pytest.raises(DeclarationError, match=r"the union of Sum, Greeting, .*Move cannot be used: "):
        api.on(move)


def test_beside_types_by_name_the_tag_must_be_the_type() -> None:
    class Move(msgspec.Struct, tag="MOVE", tag_field="kind"):
        x: int

    api = JsonService()

    @api.on
    def move(message: Move, conn: Connection) -> None: ...

    with pytest.raises(DeclarationError, match="Move is not in a field 'type'"):
        api.on("OTHER")(lambda message, conn: None)


def test_a_key_error_of_a_handler_is_its_own() -> None:
    api = JsonService()

    @api.on
    def fail(message: Sum, conn: Connection) -> None:
        raise KeyError("type")

    with pytest.raises(KeyError):
        replies_to(api, Sum(1, 2))


class Page(msgspec.Struct, Generic[T], tag="PAGE"):
    items: list[T]


def test_a_generic_struct_is_refused_with_a_reason() -> None:
    def page(message: Page[int], conn: Connection) -> None: ...

    with pytest.raises(DeclarationError, match="needs a msgspec"):
        JsonService().on(page)


def received(peer: Peer, codec: Codec, count: int) -> list[Any]:
    messages: list[Any] = []
    while len(messages) < count:
        data = peer.read()
        assert data, f"the connection ended after {messages}"
        codec.receive(data)
        messages.extend(codec.messages())
    return messages


@pytest.mark.parametrize("codec", CODECS)
def test_a_server_answers_valid_and_invalid_messages_on_one_connection(
    serving: Serving, codec: Callable[[], Codec], greenlets: str
) -> None:
    server = serving.start(make_api(codec), greenlets=greenlets)
    peer, client = serving.connect(server), codec()
    peer.send(client.encode({"type": "SUM", "a": 1, "b": 2}))
    peer.send(client.encode({"type": "SUM", "a": 1, "b": "x"}) + client.encode(Greeting("Ada")))

    replies = received(peer, client, 3)

    assert replies == [{"result": 3}, error("Expected `float`, got `str` - at `$.b`"), {"reply": "Hello, Ada!"}]
    assert server.counters.errors == 1


def test_an_invalid_message_without_a_reply_ends_the_connection(serving: Serving) -> None:
    api = make_api(on_error=lambda fault, conn: None)
    api.on("OTHER")(lambda message, conn: None)  # so that the service, not the codec, finds it
    peer = serving.connect(serving.start(api))

    assert peer.ask(b'{"type":"SUM","a":1,"b":2}') == b'{"result":3.0}'
    peer.send(b'{"type":"SUM"}\n')
    assert peer.read_to_end() == b""
