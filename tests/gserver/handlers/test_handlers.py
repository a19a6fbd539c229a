"""The built-in services: their exact replies."""

from __future__ import annotations

from typing import Any

import pytest

from gserver.codecs import Malformed
from gserver.codecs.malformed import MalformedError
from gserver.handlers import echo, json
from gserver.service import Service
from tests.helpers.serving import Serving

CONN: Any = object()


def reply_to(service: Service, message: Any) -> Any:
    if isinstance(message, Malformed):
        return service.on_error(message, CONN)
    try:
        return service.on_message(message, CONN)
    except MalformedError as error:
        return service.on_error(error.malformed, CONN)


def answer(service: Service, wire: bytes) -> bytes:
    """Return the bytes that the service sends in reply, without a socket."""
    codec = service.codec()
    codec.receive(wire)
    replies = []
    for message in codec.messages():
        reply = reply_to(service, message)
        if reply is not None:
            replies.append(codec.encode(reply))
    return b"".join(replies)


NOT_FINITE = b'{"status":"ERROR","message":"The sum is not a finite number"}'
CASES = {
    b'{"type":"GREETING","name":"Ada"}': b'{"status":"OK","reply":"Hello, Ada!"}',
    b'{"type":"GREETING","name":""}': b'{"status":"OK","reply":"Hello, !"}',
    '{"type":"GREETING","name":"Zoë \\n"}'.encode(): '{"status":"OK","reply":"Hello, Zoë \\n!"}'.encode(),
    b'{"type":"SUM","a":10,"b":20}': b'{"status":"OK","result":30}',
    b'{"type":"SUM","a":-1,"b":0.5}': b'{"status":"OK","result":-0.5}',
    b'{"type":"SUM","a":1.5,"b":1.5}': b'{"status":"OK","result":3}',
    b'{"type":"SUM","a":1e3,"b":1}': b'{"status":"OK","result":1001}',
    b'{"type":"SUM","a":0.1,"b":0.2}': b'{"status":"OK","result":0.30000000000000004}',
    b'{"type":"SUM","a":1e21,"b":0}': b'{"status":"OK","result":1e+21}',
    b'{"type":"SUM","a":1e20,"b":0}': b'{"status":"OK","result":100000000000000000000}',
    b'{"type":"SUM","a":1e-7,"b":0}': b'{"status":"OK","result":1e-7}',
    b'{"type":"SUM","a":1e-6,"b":0}': b'{"status":"OK","result":0.000001}',
    b'{"type":"SUM","a":-0.0,"b":-0.0}': b'{"status":"OK","result":0}',
    b'{"type":"SUM","a":-0,"b":-0}': b'{"status":"OK","result":0}',
    b'{"type":"SUM","a":5e-324,"b":0}': b'{"status":"OK","result":5e-324}',
    b'{"type":"SUM","a":-1.25e-9,"b":0}': b'{"status":"OK","result":-1.25e-9}',
    b'{"b":2,"a":1,"type":"SUM","more":[]}': b'{"status":"OK","result":3}',
    b'{"type":"SUM","a":1e308,"b":1e308}': NOT_FINITE,
    b'{"type":"SUM","a":-1e308,"b":-1e308}': NOT_FINITE,
    b'{"type":"SUM","a":1' + b"0" * 400 + b',"b":0.5}': NOT_FINITE,
    b'{"type":"SUM","a":1' + b"0" * 400 + b',"b":-1' + b"0" * 400 + b"}": NOT_FINITE,
    b'{"type":"SUM","a":9007199254740993,"b":1}': b'{"status":"OK","result":9007199254740992}',
    b'{"type":"SUM","a":9007199254740993,"b":-9007199254740992}': b'{"status":"OK","result":0}',
    b'{"type":"SUM","a":4503599627370495,"b":4503599627370495}': b'{"status":"OK","result":9007199254740990}',
    b'{"type":"SUM","a":18446744073709551616,"b":0}': b'{"status":"OK","result":18446744073709552000}',
    b'{"type":"PRODUCT","a":1,"b":2}': b'{"status":"ERROR","message":"Unknown type"}',
    b'{"type":"sum","a":1,"b":2}': b'{"status":"ERROR","message":"Unknown type"}',
    b'{"a":1,"b":2}': b'{"status":"ERROR","message":"Unknown type"}',
    b'{"type":null}': b'{"status":"ERROR","message":"Unknown type"}',
    b"{}": b'{"status":"ERROR","message":"Unknown type"}',
    b"[]": b'{"status":"ERROR","message":"Unknown type"}',
    b'"SUM"': b'{"status":"ERROR","message":"Unknown type"}',
    b"42": b'{"status":"ERROR","message":"Unknown type"}',
    b'{"type":"SUM","a":1}': b'{"status":"ERROR","message":"Object missing required field `b`"}',
    b'{"type":"SUM"}': b'{"status":"ERROR","message":"Object missing required field `a`"}',
    b'{"type":"GREETING"}': b'{"status":"ERROR","message":"Object missing required field `name`"}',
    b'{"type":"GREETING","name":1}': b'{"status":"ERROR","message":"Expected `str`, got `int` - at `$.name`"}',
    b'{"type":"GREETING","name":null}': b'{"status":"ERROR","message":"Expected `str`, got `null` - at `$.name`"}',
    b'{"type":"SUM","a":"1","b":2}': b'{"status":"ERROR","message":"Expected `int | float`, got `str` - at `$.a`"}',
    b'{"type":"SUM","a":true,"b":2}': b'{"status":"ERROR","message":"Expected `int | float`, got `bool` - at `$.a`"}',
    b'{"type":"SUM","a":1,"b":[2]}': b'{"status":"ERROR","message":"Expected `int | float`, got `array` - at `$.b`"}',
    b'{"type":"SUM","a":1,"b":2': b'{"status":"ERROR","message":"Invalid JSON"}',
    b"hello": b'{"status":"ERROR","message":"Invalid JSON"}',
    b"": b'{"status":"ERROR","message":"Invalid JSON"}',
    b'"\xff"': b'{"status":"ERROR","message":"Invalid JSON"}',
    b"[" * 30_000: b'{"status":"ERROR","message":"Invalid JSON"}',
}


@pytest.mark.parametrize(("line", "reply"), CASES.items(), ids=[line[:40].decode("latin-1") for line in CASES])
def test_json_answers_to_the_byte(line: bytes, reply: bytes) -> None:
    assert answer(json(), line + b"\n") == reply + b"\n"


def test_json_answers_the_same_on_a_socket(serving: Serving, greenlets: str) -> None:
    peer = serving.connect(serving.start(json(), greenlets=greenlets))
    for line, reply in CASES.items():
        assert peer.ask(line) == reply


def test_json_understands_crlf() -> None:
    assert answer(json(), b'{"type":"SUM","a":1,"b":2}\r\n') == b'{"status":"OK","result":3}\n'


@pytest.mark.parametrize("data", [b"x", b"hello\n", bytes(range(256)), b"\r\n\r\n"])
def test_echo_sends_back_the_received_bytes(data: bytes) -> None:
    assert answer(echo(), data) == data


@pytest.mark.parametrize(("prefix", "head"), [("> ", b"> "), ("é", b"\xc3\xa9"), (b"\x00", b"\x00"), ("", b"")])
def test_echo_puts_its_prefix_before_each_chunk(prefix: str | bytes, head: bytes) -> None:
    assert answer(echo(prefix), b"hello") == head + b"hello"


def test_echo_sends_back_megabytes(serving: Serving, greenlets: str) -> None:
    peer = serving.connect(serving.start(echo(), greenlets=greenlets))
    data = bytes(range(256)) * 2000
    for _ in range(4):
        peer.send(data)
        assert peer.read_exactly(len(data)) == data
