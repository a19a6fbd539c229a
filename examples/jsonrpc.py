r"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification) on gserver: requests, notifications, batches, error codes.

Start it, with one request a line. `jsonrpc:framed` has Content-Length headers, as in the Language Server Protocol:

    $ gserver jsonrpc:app -b 127.0.0.1:3020

Talk to it:

    $ echo '{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1}' \
        | python -m gserver.client 127.0.0.1:3020 --codec json_lines
    {"jsonrpc":"2.0","result":19,"id":1}

Load it. Each reply is compared with the expected one:

    $ loadtests run json --host tcp://127.0.0.1:3020 \
        --message '{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1}' \
        --expect '{"jsonrpc":"2.0","result":19,"id":1}'

A request has an id, so the replies need no order: sixteen requests of a connection are in work at the same time.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from gserver import Codec, Connection, Fault, JsonContentLength, JsonLines, Malformed, Service

log = logging.getLogger("jsonrpc")

PARSE_ERROR = (-32700, "Parse error")
INVALID_REQUEST = (-32600, "Invalid Request")
METHOD_NOT_FOUND = (-32601, "Method not found")
INVALID_PARAMS = (-32602, "Invalid params")
INTERNAL_ERROR = (-32603, "Internal error")


class RpcError(Exception):
    """Raised by a method: the error that its caller gets."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class JsonRpc:
    """Methods by name."""

    def __init__(self) -> None:
        self._methods: dict[str, Callable[..., Any]] = {}

    def method(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register a function, to be called with its parameters by position or by name."""
        self._methods[function.__name__] = function
        return function

    def service(self, codec: Callable[[], Codec]) -> Service:
        return Service(self._handle, codec, on_error=_malformed, concurrency=16)

    def _handle(self, message: Any, conn: Connection) -> Any:
        if not isinstance(message, list):
            return self._answer(message)
        if not message:
            return _error(INVALID_REQUEST, None)
        return [reply for each in message if (reply := self._answer(each)) is not None] or None

    def _answer(self, request: Any) -> dict[str, Any] | None:
        if not _is_valid(request):
            return _error(INVALID_REQUEST, None)
        reply = self._call(request["method"], request.get("params", []), request.get("id"))
        return reply if "id" in request else None  # a request without an id is a notification

    def _call(self, name: str, params: list[Any] | dict[str, Any], id_: Any) -> dict[str, Any]:
        function = self._methods.get(name)
        if function is None:
            return _error(METHOD_NOT_FOUND, id_)
        by_position, by_name = (params, {}) if isinstance(params, list) else ([], params)
        try:
            inspect.signature(function).bind(*by_position, **by_name)
        except TypeError as error:
            return _error(INVALID_PARAMS, id_, str(error))
        try:
            return {"jsonrpc": "2.0", "result": function(*by_position, **by_name), "id": id_}
        except RpcError as error:
            return _error((error.code, error.message), id_, error.data)
        except Exception:
            log.exception("method %s failed", name)
            return _error(INTERNAL_ERROR, id_)


def _is_valid(request: Any) -> bool:
    return (
        isinstance(request, dict)
        and request.get("jsonrpc") == "2.0"
        and isinstance(request.get("method"), str)
        and isinstance(request.get("params", []), list | dict)
        and isinstance(request.get("id"), str | int | float | None)
        and not isinstance(request.get("id"), bool)
    )


def _error(kind: tuple[int, str], id_: Any, data: Any = None) -> dict[str, Any]:
    error = {"code": kind[0], "message": kind[1]}
    return {"jsonrpc": "2.0", "error": error if data is None else {**error, "data": data}, "id": id_}


def _malformed(fault: Fault, conn: Connection) -> Any:
    return _error(PARSE_ERROR if isinstance(fault, Malformed) else INTERNAL_ERROR, None)


rpc = JsonRpc()


@rpc.method
def subtract(minuend: float, subtrahend: float) -> float:
    return minuend - subtrahend


@rpc.method
def divide(dividend: float, divisor: float) -> float:
    if divisor == 0:
        raise RpcError(1, "division by zero", {"dividend": dividend})
    return dividend / divisor


app = rpc.service(JsonLines)
framed = rpc.service(JsonContentLength)
