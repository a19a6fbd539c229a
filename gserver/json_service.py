"""JsonService: JSON messages, one per line, with one handler for each value of the field "type"."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gserver.codecs import Codec, JsonLines, Malformed
from gserver.errors import CloseReason, HandlerTimeout, LimitExceeded, ProtocolError
from gserver.service import Fault, OnMessage, Ready, Service, Stop
from gserver.user_errors import check_function, declaration_error, described, named

if TYPE_CHECKING:
    from gserver.connection.connection import Connection

__all__ = ["JsonService"]

_convert = msgspec.convert

Handler = TypeVar("Handler", bound=Callable[..., Any])

PROBE = {"type": "gserver.probe"}


class JsonService(Service):
    """A service for JSON objects, one per line, that calls a handler by the field "type".

        api = JsonService()

        class Sum(msgspec.Struct):
            a: float
            b: float

        @api.on("SUM", Sum)
        def add(message, conn):
            return {"status": "OK", "result": message.a + message.b}

    An error is answered with {"status":"ERROR","message":...}: text that is not JSON, an unknown type, a field that is
    missing or of the wrong type, an exception of a handler, a line above the maximum (the connection is then closed).

    JSON has no infinity and no NaN: a reply has null in their place, as in JavaScript. A handler that must not send
    null checks with math.isfinite().

    Args: codec, on_open, on_close, on_drain, ready, stop, probe and probe_on_open as in Service. The codec must encode
        dicts. The default probe has an unknown type, and the error reply is a valid answer to it.
    """

    def __init__(
        self,
        codec: Callable[[], Codec] = JsonLines,
        *,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection, CloseReason], None] | None = None,
        on_drain: Callable[[Connection], None] | None = None,
        ready: Ready | None = None,
        stop: Stop | None = None,
        probe: Any = PROBE,
        probe_on_open: bool = False,
    ) -> None:
        self._routes: dict[Any, tuple[OnMessage, type[Any] | None]] = {}
        super().__init__(
            self._route,
            codec,
            on_open=on_open,
            on_close=on_close,
            on_drain=on_drain,
            on_error=_error_reply,
            ready=ready,
            stop=stop,
            probe=probe,
            probe_on_open=probe_on_open,
        )

    def on(self, type_: str, shape: type[Any] | None = None) -> Callable[[Handler], Handler]:
        """Register the decorated function, handler(message, conn) -> reply or None, for messages of `type_`.

        With `shape` (a msgspec.Struct, a dataclass, a TypedDict), the message is validated and converted to the shape;
        the error reply to an invalid message names the field. Without it, the handler gets the dict as received.
        ValueError if the type already has a handler. DeclarationError if the shape or the handler cannot be used.
        """
        if inspect.isroutine(type_):
            raise declaration_error(f"on() got the function {named(type_)} instead of a type: write @api.on('TYPE')")
        if inspect.isroutine(shape):
            raise declaration_error(
                f"the shape of {type_!r} is the function {named(shape)}: write @api.on({type_!r}) above it"
            )
        if shape is not None:
            _check_shape(type_, shape)

        def register(handler: Handler) -> Handler:
            if type_ in self._routes:
                raise ValueError(f"type {type_!r} already has a handler: {self._routes[type_][0]!r}")
            check_function(f"the handler of {type_!r}", handler, "message", "conn")
            self._routes[type_] = (handler, shape)
            return handler

        return register

    def _route(self, message: Any, conn: Connection) -> Any:
        try:
            handler, shape = self._routes[message["type"]]
        except (KeyError, TypeError):  # an unknown type, no type, or a type that is not hashable
            return _error("Unknown type")
        if shape is not None:
            try:
                message = _convert(message, shape)
            except msgspec.ValidationError as error:
                return _error(str(error))
        return handler(message, conn)


def _check_shape(type_: str, shape: Any) -> None:
    """Check that msgspec can use `shape`; DeclarationError if not. Forward references may be resolved later."""
    what = f"the shape of {type_!r} is {shape!r}"
    try:
        msgspec.json.Decoder(shape)
    except TypeError as error:
        raise declaration_error(f"{what}: must be a type, such as a msgspec.Struct") from error
    except (NameError, AttributeError):  # a forward reference
        pass
    except Exception as error:
        raise declaration_error(f"{what}, which cannot be used: {described(error)}") from error


def _error(message: str) -> dict[str, str]:
    return {"status": "ERROR", "message": message}


def _error_reply(fault: Fault, conn: Connection) -> dict[str, str]:
    if isinstance(fault, Malformed):
        return _error(fault.message)
    if isinstance(fault, ProtocolError | LimitExceeded | HandlerTimeout):
        return _error(str(fault))
    return _error("Internal error")
