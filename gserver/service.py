"""Services: what a user declares, a codec and the handlers of its messages. No I/O happens here.

    Service     one function for every message
    JsonService JSON messages, one per line, with one function for each value of the field "type"
    @stream     a function that owns the connection and reads it by itself
    bare        any other function: handle(socket, address), as for gevent's StreamServer; gserver does not wrap it

A handler may block its greenlet: only its own connection waits. The messages of one connection are handled in order,
one at a time. An exception of a handler ends at most its own connection.

A contextvars.ContextVar that a handler sets keeps its value for all callbacks of that connection. A threading.local or
a gevent.local belongs to a greenlet, and a greenlet serves many connections: use a ContextVar or conn.session instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from gserver.codecs import Codec, Malformed, Raw
from gserver.errors import CloseReason
from gserver.user_errors import check_codec, check_function, declaration_error, named

if TYPE_CHECKING:
    from gserver.connection.connection import Connection
    from gserver.connection.stream_connection import StreamConnection

__all__ = ["Fault", "OnMessage", "Ready", "Service", "Stop", "StreamService", "stream"]


OnMessage = Callable[[Any, "Connection"], Any]
#: The argument of on_error: a violation of the framing, invalid content, a limit, or the exception of a handler.
Fault = Malformed | BaseException
OnError = Callable[[Fault, "Connection"], Any]
Ready = Callable[[], Any]
Stop = Callable[[], Any]
StreamHandler = Callable[["StreamConnection"], None]


class Service:
    """A service: a handler for messages, and the codec that decodes them.

    Args:
        on_message: called as on_message(message, conn); its return value is encoded and sent; None sends nothing.
        codec: called without arguments for each connection; a codec class, or functools.partial of one.
        on_open: called as on_open(conn) before the first message. An exception closes the connection.
        on_close: called as on_close(conn, reason) once, after the last message.
        on_drain: called as on_drain(conn) once, when the connection is about to be closed because its worker drains or
            because it has reached max_connection_age: conn.drain_reason is CloseReason.DRAINED or AGED. Everything that
            the peer had sent by then is answered; no further message will be handled. The service may send a last
            message, by which the peer connects elsewhere. It is not called for a peer that has left, nor for one that
            is closed for another reason. An exception is logged. It has handler_timeout, and no longer than the drain.
        on_error: called as on_error(fault, conn) for a ProtocolError, a Malformed, a LimitExceeded (the connection is
            refused, or has sent too much), an exception of a handler, or a HandlerTimeout; its return value is encoded
            and sent to the peer. Default: nothing is sent. The connection stays open after a Malformed or an exception
            of a handler if on_error returned a reply; in all other cases it is closed.
        ready: called without arguments in every new worker, after the application is imported and before the worker
            accepts connections. If it raises, the worker accepts none.
        stop: called without arguments in every worker that exits normally, after its last connection is closed; closes
            what `ready` has opened. It has the rest of drain_spread and graceful_timeout, and at least 1 second,
            before the worker is killed. An exception is logged.
        probe: a message that every new worker must answer, with one message and without an error, before it accepts
            connections. The probe has its own connection, without TLS: conn.is_probe is true, conn.peer is "probe".
            None: no probe.
        concurrency: how many messages of one connection may be handled at the same time; default 1. With more, each
            handler runs in a greenlet of its own: for a protocol whose messages have ids, so that a slow one does not
            delay the others. While so many run, the connection is not read.
        ordered: whether the replies are sent in the order of their messages, however long each takes; default False:
            in the order in which they are ready. Without effect if concurrency is 1: they are in order.
        probe_on_open: call on_open, on_drain and on_close for the probe's connection too. Default: only for clients, so
            that an on_open that requires something of clients (a certificate, for example) does not reject the probe.

    Raises: DeclarationError if a handler cannot be called with its arguments, or if `codec` cannot make a codec.

    Example:
        app = Service(lambda line, conn: line.upper(), codec=Lines, on_open=lambda conn: conn.send(b"welcome"))
        with Conversation(app) as conv:
            conv.message(b"hello")
            assert conv.received == [b"welcome", b"HELLO"]
    """

    def __init__(
        self,
        on_message: OnMessage,
        codec: Callable[[], Codec] = Raw,
        *,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection, CloseReason], None] | None = None,
        on_drain: Callable[[Connection], None] | None = None,
        on_error: OnError | None = None,
        ready: Ready | None = None,
        stop: Stop | None = None,
        probe: Any = None,
        probe_on_open: bool = False,
        concurrency: int = 1,
        ordered: bool = False,
    ) -> None:
        check_function("on_message", on_message, "message", "conn")
        check_codec(codec)
        if not isinstance(concurrency, int) or concurrency < 1:
            raise declaration_error(f"concurrency is {concurrency!r}, must be an integer from 1")
        for name, hook, names in (
            ("on_open", on_open, ("conn",)),
            ("on_close", on_close, ("conn", "reason")),
            ("on_drain", on_drain, ("conn",)),
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
        self.on_drain = on_drain
        self.on_error: OnError = on_error or _no_reply
        self.ready = ready
        self.stop = stop
        self.probe = probe
        self.probe_on_open = probe_on_open
        self.concurrency = concurrency
        self.ordered = ordered


class StreamService:
    """A service in which a function owns its connection until it returns; made by @stream.

    When the worker drains, or the connection reaches max_connection_age, conn.is_draining becomes true. A function that
    reads gets what had been received by then, and after that the end, as if the peer had closed its side. It may then
    send a last message. One that does something else checks conn.is_draining. It has graceful_timeout to return.

    Args: codec, ready, stop and probe as in Service.
    """

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
            raise declaration_error(f"@stream got the class {named(handle)}: write @stream(codec={handle.__name__})")
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
    """Decorate `def handle(conn)` to make a service: it reads conn itself; the connection closes when it returns.

    Used as @stream, or as @stream(codec=Lines): the codec decodes the messages of `for message in conn`.

    Example:
        @stream(codec=Lines)
        def app(conn):
            for line in conn:
                conn.send(line.upper())

        with Conversation(app) as conv:
            assert conv.message(b"hello") == [b"HELLO"]
    """
    if handle is not None:
        return StreamService(handle)
    return lambda handle: StreamService(handle, **options)


def _no_reply(fault: Fault, conn: Connection) -> None:
    return None
