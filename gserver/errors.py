"""All exceptions of gserver, and all reasons for which a connection is closed.

    GServerError
    ├── ConfigError             a setting, an address or an application that cannot be used
    │   └── DeclarationError    a handler or a codec that cannot work: a TypeError too
    ├── ConnectionClosed        the connection ended during a call
    │   ├── NotSent             of a client: before any of the message was sent; repeating it is safe
    │   └── NoReply             of a client: after it was sent, perhaps in part; it may have been executed
    ├── LimitExceeded           a limit was exceeded: of connections, or on one connection
    ├── ProxyError              the PROXY header is missing or malformed
    ├── TlsError                the TLS handshake or the TLS stream failed
    └── ProtocolError           the peer broke the framing; the connection must end
        ├── FrameTooLarge       a message above the codec's maximum size
        ├── InvalidHeader       a header, such as a length, that no message can have
        ├── IncompleteMessage   the peer stopped inside a message
        └── MessageTimeout      a message was not complete in time
    HandlerTimeout              a handler took too long; raised in the handler, not an Exception

The text of a ProtocolError or a LimitExceeded contains the value and the limit, and may be sent to the peer. Each error
that closes a connection has its close reason as the attribute `close_reason`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

__all__ = [
    "CloseReason",
    "ConfigError",
    "ConnectionClosed",
    "DeclarationError",
    "FrameTooLarge",
    "GServerError",
    "HandlerTimeout",
    "IncompleteMessage",
    "InvalidHeader",
    "LimitExceeded",
    "MessageTimeout",
    "NoReply",
    "NotSent",
    "ProtocolError",
    "ProxyError",
    "TlsError",
]


class CloseReason(enum.Enum):
    """Why a connection was closed. The log, the statistics and `on_close` have the same names.

    Example:
        closed = []
        app = Service(lambda line, conn: line, Lines, on_close=lambda conn, reason: closed.append(reason))
        with Conversation(app) as conv:
            conv.finish()
        assert closed == [CloseReason.PEER_EOF]
    """

    __hash__ = object.__hash__  # faster: Enum's is a Python function, and each close looks up three of these

    PEER_EOF = "peer_eof"  # the peer closed the connection, between two messages
    PEER_RESET = "peer_reset"  # the kernel reported that the connection is broken
    EOF_IN_MESSAGE = "eof_in_message"
    PROTOCOL_ERROR = "protocol_error"
    HANDLER_ERROR = "handler_error"  # a handler raised, and on_error returned no reply
    HANDSHAKE_FAILED = "handshake_failed"  # no TLS, a rejected certificate, or a malformed PROXY header

    # Timeouts.
    HANDSHAKE_TIMEOUT = "handshake_timeout"  # PROXY header and TLS handshake were not complete in time
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"  # neither side sent anything after the accept
    IDLE_TIMEOUT = "idle_timeout"  # nothing was received or sent between two messages
    READ_IDLE_TIMEOUT = "read_idle_timeout"  # nothing was received; sent bytes do not count
    MESSAGE_TIMEOUT = "message_timeout"  # a message began and was not complete in time
    HANDLER_TIMEOUT = "handler_timeout"
    WRITE_TIMEOUT = "write_timeout"  # the peer accepted none of the bytes to be sent
    AGED = "aged"  # max_connection_age was reached
    DEADLINE = "deadline"  # of conn.set_deadline()

    # Limits.
    DENIED = "denied"  # by the peer's address: allow and deny
    FULL = "full"  # maximum number of connections reached, or no file descriptor free
    ADDRESS_LIMIT = "address_limit"  # too many connections from its address or network
    ACCEPT_RATE = "accept_rate"  # too many new connections per second
    SHED = "shed"  # it was the longest idle connection, closed to make room for a new one
    RATE_LIMIT = "rate_limit"  # too many messages or bytes per second
    BUFFER_LIMIT = "buffer_limit"  # too many bytes waited to be sent

    FINISHED = "finished"  # the service closed it, or its stream handler returned
    DRAINED = "drained"  # the server stops, and all replies to this peer were sent
    ADMINISTRATIVE = "administrative"  # an operator closed it: gserverctl close
    KILLED = "killed"  # still busy at the end of graceful_timeout

    # For the counters only: no connection has one of these as its close reason.
    HEALTH_CHECK = "health_check"  # a connection of the proxy itself, however it ended
    WORKER_DIED = "worker_died"  # its worker process ended


class GServerError(Exception):
    """Base class of the exceptions that gserver raises, except HandlerTimeout.

    Example:
        try:
            with Client(("127.0.0.1", 3000), Lines()) as client:
                print(client.call(b"hello"))
        except (GServerError, OSError) as error:
            print("no answer:", error)
    """


class ConfigError(GServerError):
    """A setting, an address or an application cannot be used. The text is one line.

    Example:
        try:
            serve(Service(lambda line, conn: line), idle_timeout=-1)
        except ConfigError as error:
            print(error)
    """


class DeclarationError(ConfigError, TypeError):
    """A declaration (handler, codec, application) cannot work. The text has what is expected, and the line of code.

    Example:
        try:
            Service(lambda line: line)  # it must take the connection, too
        except DeclarationError as error:
            print(error)
    """


class ConnectionClosed(GServerError):
    """The connection ended before a call had sent or received all of its bytes.

    Example:
        import gevent

        def send_news(conn):
            try:
                while True:
                    conn.send(b"news")
                    gevent.sleep(1)
            except ConnectionClosed:
                pass  # the client has left

        app = Service(lambda line, conn: line, Lines, on_open=lambda conn: gevent.spawn(send_news, conn))
        with Conversation(app) as conv:
            conv.advance(1.5)
            assert conv.received == [b"news", b"news"]
    """

    def __init__(self, message: str, reason: CloseReason | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class NotSent(ConnectionClosed):
    """The connection ended, or there was none, before the kernel had any of the message. Repeating it is safe.

    Example:
        client = Client(("127.0.0.1", 3000), Lines())
        client.close()
        try:
            client.call(b"hello")
        except NotSent:
            client = Client(("127.0.0.1", 3000), Lines())
            print(client.call(b"hello"))
    """


class NoReply(ConnectionClosed):
    """The message was sent, perhaps in part, and the connection ended before the reply.

    The server may have executed it. A caller repeats it only if that does no harm.

    Attributes:
        replies: of pipeline(): the replies that arrived before the end, in order. They are those of the first messages.

    Example:
        with serve(Service(lambda line, conn: conn.close(), Lines)) as server:
            try:
                server.connect().call(b"PAY 5")
            except NoReply as error:
                print("was it paid?", error)
    """

    def __init__(self, message: str, replies: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.replies = list(replies)


class LimitExceeded(GServerError):
    """A limit was exceeded. The text may be sent to the peer; `setting` is the name of the limit.

    Example:
        def answer(fault, conn):
            return b"busy" if isinstance(fault, LimitExceeded) else None

        with serve(Service(lambda line, conn: line, Lines, on_error=answer), worker_connections=1) as server:
            assert server.connect().call(b"hello") == b"hello"
            assert server.connect().recv() == b"busy"
    """

    def __init__(self, message: str, close_reason: CloseReason, setting: str = "") -> None:
        super().__init__(message)
        self.close_reason = close_reason
        self.setting = setting


class HandlerTimeout(BaseException):
    """Raised in a handler that has taken too long. Not an Exception, so that `except Exception` does not catch it.

    Example:
        import gevent

        def handle(line, conn):
            try:
                gevent.sleep(60)
            except HandlerTimeout:
                print("undo what was begun")
                raise

        app = Service(handle, Lines, on_error=lambda fault, conn: b"too slow")
        with Conversation(app, handler_timeout=1, raise_errors=False) as conv:
            conv.message(b"work")
            assert conv.advance(2) == [b"too slow"]
    """

    close_reason = CloseReason.HANDLER_TIMEOUT


class ProtocolError(GServerError):
    """The peer violated the framing. The codec that raised it stays in error.

    Example:
        def answer(fault, conn):
            return str(fault).encode() if isinstance(fault, ProtocolError) else None

        with Conversation(Service(lambda message, conn: message, Netstring, on_error=answer)) as conv:
            conv.send(b"no netstring")
            assert conv.close_reason is CloseReason.PROTOCOL_ERROR
    """

    close_reason = CloseReason.PROTOCOL_ERROR


class FrameTooLarge(ProtocolError):
    """A message is above the codec's maximum size.

    Example:
        try:
            feed(Lines(max_bytes=3), b"hello")
        except FrameTooLarge as error:
            print(error)
    """


class InvalidHeader(ProtocolError):
    """A header, such as a length, is one that no message can have.

    Example:
        try:
            feed(Netstring, b"hello")
        except InvalidHeader as error:
            print(error)
    """


class IncompleteMessage(ProtocolError):
    """The peer closed the connection inside a message.

    Example:
        codec = Lines()
        feed(codec, b"hel")
        try:
            codec.eof()
        except IncompleteMessage as error:
            print(error)
    """

    close_reason = CloseReason.EOF_IN_MESSAGE


class MessageTimeout(ProtocolError):
    """The peer began a message and did not complete it in time.

    Example:
        faults = []
        app = Service(lambda line, conn: line, Lines, on_error=lambda fault, conn: faults.append(fault))
        with Conversation(app, message_timeout=5) as conv:
            conv.send(b"hel")
            conv.advance(6)
        assert isinstance(faults[0], MessageTimeout)
    """

    close_reason = CloseReason.MESSAGE_TIMEOUT


class ProxyError(GServerError):
    """The PROXY header of a connection is missing or malformed."""

    close_reason = CloseReason.HANDSHAKE_FAILED


class TlsError(GServerError):
    """TLS with this peer failed. The text is the reason, for the log; the peer gets a TLS alert."""

    def __init__(self, message: str, close_reason: CloseReason = CloseReason.HANDSHAKE_FAILED) -> None:
        super().__init__(message)
        self.close_reason = close_reason
