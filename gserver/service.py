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
from typing import TYPE_CHECKING, Any, overload

from gserver.codecs import Codec, Malformed, Raw
from gserver.errors import CloseReason
from gserver.user_errors import check_codec, check_function, mistake, named

if TYPE_CHECKING:
    from gserver.connection.connection import Connection
    from gserver.connection.stream_connection import StreamConnection

__all__ = ["Fault", "OnMessage", "Ready", "Service", "Stop", "StreamService", "stream"]


OnMessage = Callable[[Any, "Connection"], Any]
#: What on_error is told about: broken framing, content that is not valid, or the exception of a handler.
Fault = Malformed | BaseException
OnError = Callable[[Fault, "Connection"], Any]
Ready = Callable[[], Any]
Stop = Callable[[], Any]
StreamHandler = Callable[["StreamConnection"], None]


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
            connections. It comes over a connection of its own, whose is_probe is true and whose peer is "probe", and
            which has no TLS. None: no probe.
        probe_on_open: call on_open and on_close for the probe's connection too. Default: they are called for clients
            only, so that what they demand of a client (a certificate, say) does not keep the probe out.
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
        probe_on_open: bool = False,
    ) -> None:
        check_function("on_message", on_message, "message", "conn")
        check_codec(codec)
        for name, hook, names in (
            ("on_open", on_open, ("conn",)),
            ("on_close", on_close, ("conn", "reason")),
            ("on_error", on_error, ("fault", "conn")),
            ("ready", ready, ()),
            ("stop", stop, ()),
        ):
            if hook is not None:
                check_function(name, hook, *names)
        self.on_message = on_message
        self.codec = codec
        self.on_open = on_open
        self.on_close = on_close
        self.on_error: OnError = on_error or _say_nothing
        self.ready = ready
        self.stop = stop
        self.probe = probe
        self.probe_on_open = probe_on_open


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
        if isinstance(handle, type) and hasattr(handle, "messages"):
            raise mistake(f"@stream is given the class {named(handle)}: write @stream(codec={handle.__name__})")
        check_function("the @stream function", handle, "conn")
        check_codec(codec)
        for name, hook in (("ready", ready), ("stop", stop)):
            if hook is not None:
                check_function(name, hook)
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
