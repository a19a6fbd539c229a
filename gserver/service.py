"""What a user declares: which codec, and what to do with a message. No I/O happens here.

    Service     one function for every message
    JsonService newline-framed JSON, one function for each value of the field "type"
    @stream     a function that owns the connection and reads it by itself
    bare        any other function: handle(socket, address), as gevent's StreamServer takes it; not wrapped at all

Handlers may block in gevent's way; their connection waits for them, no other does. The messages of one connection are
handled in order, one at a time. Whatever they raise ends at most their own connection.

What a handler sets in a contextvars.ContextVar stays with its connection, for all of its callbacks. A threading.local
or a gevent.local belongs to a greenlet, which serves many connections: use a ContextVar or conn.session instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from gserver.errors import CloseReason, HandlerTimeout, LimitExceeded, ProtocolError
from gserver.framing import Codec, JsonLines, Malformed, Raw

if TYPE_CHECKING:
    from gserver.connection import Connection
    from gserver.streams import StreamConnection

__all__ = ["Fault", "JsonService", "Service", "StreamService", "stream"]

_convert = msgspec.convert

OnMessage = Callable[[Any, "Connection"], Any]
#: What on_error is told about: broken framing, content that is not valid, or the exception of a handler.
Fault = Malformed | BaseException
OnError = Callable[[Fault, "Connection"], Any]
Ready = Callable[[], Any]
Stop = Callable[[], Any]
StreamHandler = Callable[["StreamConnection"], None]
Handler = TypeVar("Handler", bound=Callable[..., Any])

PROBE = {"type": "gserver.probe"}


class Service:
    """A function for messages, and the codec that makes them.

    Args:
        on_message: called as on_message(message, conn); what it returns is encoded and sent, None sends nothing.
        codec: called without arguments for each connection; a codec class, or functools.partial of one.
        on_open: called as on_open(conn) before the first message.
        on_close: called as on_close(conn, reason) once, after the last message.
        on_error: called as on_error(fault, conn) for a ProtocolError, a Malformed, a LimitExceeded (a connection that
            is refused, or has sent too much), a handler's exception or its HandlerTimeout; what it returns is encoded
            and sent to the peer. Default: nothing is said. A connection outlives a Malformed or a handler's exception
            only if there was something to say; all others end it.
        ready: called without arguments in every new worker, after the application is imported and before it takes
            connections; a worker in which it raises never takes any.
        stop: called without arguments in every worker that ends in order, after its last connection has closed: it
            closes what `ready` has opened. It has the rest of graceful_timeout, at least a second, before it is killed;
            what it raises is logged.
        probe: a message that every new worker must answer, with one message and without an error, before it takes
            connections. It comes over a connection of its own, whose peer is "probe". None: no probe.
    """

    def __init__(
        self,
        on_message: OnMessage,
        codec: Callable[[], Codec] = Raw,
        *,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection, CloseReason], None] | None = None,
        on_error: OnError | None = None,
        ready: Ready | None = None,
        stop: Stop | None = None,
        probe: Any = None,
    ) -> None:
        self.on_message = on_message
        self.codec = codec
        self.on_open = on_open
        self.on_close = on_close
        self.on_error: OnError = on_error or _say_nothing
        self.ready = ready
        self.stop = stop
        self.probe = probe


def _say_nothing(fault: Fault, conn: Connection) -> None:
    return None


class StreamService:
    """A function that owns a connection for as long as it runs; made by @stream. ready, stop, probe: as Service's."""

    def __init__(
        self,
        handle: StreamHandler,
        codec: Callable[[], Codec] = Raw,
        *,
        ready: Ready | None = None,
        stop: Stop | None = None,
        probe: Any = None,
    ) -> None:
        self.handle = handle
        self.codec = codec
        self.ready = ready
        self.stop = stop
        self.probe = probe


@overload
def stream(handle: StreamHandler, /) -> StreamService: ...
@overload
def stream(
    *, codec: Callable[[], Codec] = ..., ready: Ready | None = ..., stop: Stop | None = ..., probe: Any = ...
) -> Callable[[StreamHandler], StreamService]: ...
def stream(handle: StreamHandler | None = None, /, **options: Any) -> Any:
    """Mark `def handle(conn)` as a service: it reads conn by itself, and the connection closes when it returns.

    Used bare, or as @stream(codec=Lines), which decides what `for message in conn` yields.
    """
    if handle is not None:
        return StreamService(handle)
    return lambda handle: StreamService(handle, **options)


class JsonService(Service):
    """Newline-framed JSON objects, routed by their field "type".

        api = JsonService()

        class Sum(msgspec.Struct):
            a: float
            b: float

        @api.on("SUM", Sum)
        def add(message, conn):
            return {"status": "OK", "result": message.a + message.b}

    What is wrong is answered with {"status":"ERROR","message":...}: text that is not JSON, an unknown type, a field
    that is missing or of the wrong type, a handler that raised, a line over the maximum (which also closes).

    Args: codec, on_open, on_close, ready, stop and probe as for Service; the codec must carry dicts. The default probe
        has a type of gserver's own, and is answered as an unknown one.
    """

    def __init__(
        self,
        codec: Callable[[], Codec] = JsonLines,
        *,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection, CloseReason], None] | None = None,
        ready: Ready | None = None,
        stop: Stop | None = None,
        probe: Any = PROBE,
    ) -> None:
        self._routes: dict[Any, tuple[OnMessage, type[Any] | None]] = {}
        super().__init__(
            self._route,
            codec,
            on_open=on_open,
            on_close=on_close,
            on_error=_error_reply,
            ready=ready,
            stop=stop,
            probe=probe,
        )

    def on(self, type_: str, shape: type[Any] | None = None) -> Callable[[Handler], Handler]:
        """Register the decorated function, handler(message, conn) -> reply or None, for messages of `type_`.

        With `shape` (a msgspec.Struct, a dataclass, a TypedDict) the message is checked against it, converted to it and
        refused with the name of the field that is wrong; without, the handler gets the dict as it came.
        ValueError if the type has a handler already.
        """

        def register(handler: Handler) -> Handler:
            if type_ in self._routes:
                raise ValueError(f"type {type_!r} already has a handler: {self._routes[type_][0]!r}")
            self._routes[type_] = (handler, shape)
            return handler

        return register

    def _route(self, message: Any, conn: Connection) -> Any:
        try:
            handler, shape = self._routes[message["type"]]
        except (KeyError, TypeError):  # no such type, no type at all, or a type that no dict can look up
            return _error("Unknown type")
        if shape is not None:
            try:
                message = _convert(message, shape)
            except msgspec.ValidationError as error:
                return _error(str(error))
        return handler(message, conn)


def _error(message: str) -> dict[str, str]:
    return {"status": "ERROR", "message": message}


def _error_reply(fault: Fault, conn: Connection) -> dict[str, str]:
    if isinstance(fault, Malformed):
        return _error(fault.message)
    if isinstance(fault, ProtocolError | LimitExceeded | HandlerTimeout):
        return _error(str(fault))
    return _error("Internal error")
