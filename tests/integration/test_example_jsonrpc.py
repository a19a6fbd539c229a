"""examples/jsonrpc.py answers as the examples of the specification, on lines and with Content-Length headers.

https://www.jsonrpc.org/specification, section 7.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.client import Client
from gserver.codecs import JsonContentLength, JsonLines
from tests.helpers.processes import GserverProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
#: The methods of the specification's examples, beside those of the example itself.
METHODS = """
import functools
import operator

from jsonrpc import JsonContentLength, JsonLines, rpc

@rpc.method
def sum(*numbers): return functools.reduce(operator.add, numbers)

@rpc.method
def get_data(): return ["hello", 5]

@rpc.method
def update(*numbers): pass

@rpc.method
def notify_hello(number): pass

@rpc.method
def fail(): raise RuntimeError("a secret")

app, framed = rpc.service(JsonLines), rpc.service(JsonContentLength)
"""
PARSE_ERROR = {"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": None}
INVALID = {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": None}


def call(method: str, params: Any = None, id_: Any = None) -> dict[str, Any]:
    request: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return request | ({} if params is None else {"params": params}) | ({} if id_ is None else {"id": id_})


def result(value: Any, id_: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": value, "id": id_}


def error(code: int, message: str, id_: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id_}


NOT_FOUND = error(-32601, "Method not found", "1")
BATCH = [
    call("sum", [1, 2, 4], "1"),
    call("notify_hello", [7]),
    call("subtract", [42, 23], "2"),
    {"foo": "boo"},
    call("foo.get", {"name": "myself"}, "5"),
    call("get_data", None, "9"),
]
BATCH_REPLY = [
    result(7, "1"),
    result(19, "2"),
    INVALID,
    error(-32601, "Method not found", "5"),
    result(["hello", 5], "9"),
]
#: Request and reply; no reply: a notification.
EXCHANGES: list[tuple[Any, Any]] = [
    (call("subtract", [42, 23], 1), result(19, 1)),
    (call("subtract", [23, 42], 2), result(-19, 2)),
    (call("subtract", {"subtrahend": 23, "minuend": 42}, 3), result(19, 3)),
    (call("subtract", {"minuend": 42, "subtrahend": 23}, 4), result(19, 4)),
    (call("update", [1, 2, 3, 4, 5]), None),
    (call("foobar"), None),
    (call("foobar", None, "1"), NOT_FOUND),
    ({"jsonrpc": "2.0", "method": 1, "params": "bar"}, INVALID),
    ([], INVALID),
    ([1], [INVALID]),
    ([1, 2, 3], [INVALID, INVALID, INVALID]),
    (BATCH, BATCH_REPLY),
    ([call("update", [1, 2, 4]), call("notify_hello", [7])], None),
]
NOT_JSON = [
    b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
    b'[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]',
]


@pytest.fixture(scope="module", params=[("app", JsonLines), ("framed", JsonContentLength)], ids=["lines", "framed"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    name, codec = request.param
    folder = tmp_path_factory.mktemp("jsonrpc")
    (folder / "jsonrpc.py").write_text((EXAMPLES / "jsonrpc.py").read_text())
    (folder / "methods.py").write_text(METHODS)
    with GserverProcess(folder, f"methods:{name}") as server, Client(server.address, codec()) as connected:
        yield connected


@pytest.mark.parametrize(("request_", "reply"), EXCHANGES)
def test_the_examples_of_the_specification(client: Client, request_: Any, reply: Any) -> None:
    client.send(request_)
    if reply is None:
        # A notification has no reply: the next message is that of the next request.
        client.send(call("get_data", None, "next"))
        assert client.recv() == result(["hello", 5], "next")
    else:
        assert client.recv() == reply


@pytest.mark.parametrize("text", NOT_JSON)
def test_text_that_is_not_json_is_a_parse_error_and_the_connection_goes_on(client: Client, text: bytes) -> None:
    framed = isinstance(client.codec, JsonContentLength)
    client.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(text), text) if framed else text + b"\n")

    assert client.recv() == PARSE_ERROR
    assert client.call(call("subtract", [42, 23], 1)) == result(19, 1)


def test_errors_of_methods(client: Client) -> None:
    wrong = client.call(call("subtract", [1], 1))
    assert (wrong["error"]["code"], wrong["error"]["message"]) == (-32602, "Invalid params")
    divided = client.call(call("divide", [5, 0], 2))
    assert divided["error"] == {"code": 1, "message": "division by zero", "data": {"dividend": 5}}
    failed = client.call(call("fail", None, 3))
    assert failed == error(-32603, "Internal error", 3)
    assert "secret" not in json.dumps(failed)


@pytest.mark.parametrize("id_", [True, [1], {"a": 1}])
def test_an_id_of_another_type_is_an_invalid_request(client: Client, id_: Any) -> None:
    assert client.call({"jsonrpc": "2.0", "method": "get_data", "id": id_}) == INVALID
