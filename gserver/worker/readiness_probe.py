"""The framed probe: a new worker answers one real message over a private socket pair before it takes connections.

It is the message of the library, or one that the service has named, and its connection is no client's: conn.is_probe is
true, it has no TLS, and on_open and on_close are called for it only if the service asks for that. Whatever goes wrong
ends in a ConfigError with words of its own.
"""

from __future__ import annotations

import _socket
import copy
import functools
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent.socket import wait_read, wait_write
from greenlet import GreenletExit

from gserver.codecs import Codec, Malformed
from gserver.connection.connection import PROBE_PEER
from gserver.connection.native_fields import RECEIVE_BYTES
from gserver.counters import Counters
from gserver.errors import ConfigError, ConnectionClosed, LimitExceeded, ProtocolError
from gserver.server.tcp_server import TcpServer
from gserver.service import Service, StreamService
from gserver.user_errors import described as told

__all__ = ["PEER", "probe"]

PEER = PROBE_PEER
# What a handler gets to return after its answer.
FINISH_S = 1.0


def probe(service: Service | StreamService, timeout_s: float | None, used_s: float = 0.0) -> None:
    """Send the service's probe through codec, engine and handler; ConfigError if it is not answered in order.

    Blocks the calling greenlet. `used_s`: how much of `timeout_s` has passed already.
    """
    if service.probe is None:
        return
    codec = service.codec()
    message = _encoded(codec, service.probe)
    witness = _Witness(service)
    ours, theirs = socket.socketpair()
    served = _socket.socket(fileno=theirs.detach())
    for end in (ours, served):
        end.setblocking(False)
    # Its own, not the worker's: a worker that is killed during its probe would leave a connection that no client made.
    counters = Counters()
    server = TcpServer(("", 0), witness.service, counters=counters)  # never started: it accepts nothing
    try:
        server.adopt(served, PEER)
        left_s = None if timeout_s is None else max(0.0, timeout_s - used_s)
        with gevent.Timeout(left_s, ConfigError(f"the probe was not answered within {timeout_s or 0:g} s")):
            is_answered = _is_answered(ours, codec, message)
    finally:
        ours.close()
        unfinished = server.drain(FINISH_S)
    if not is_answered:
        raise ConfigError(f"the probe was not answered: {witness.account or _closed(counters)}{witness.hint}")
    if unfinished:
        raise ConfigError("the handler of the probe did not return")
    if counters.errors or witness.account:
        account = witness.account or "see the log"
        raise ConfigError(f"the probe was answered with an error: {account}{witness.hint}")


def _encoded(codec: Codec, message: Any) -> bytes:
    try:
        return codec.encode(message)
    except BaseException as error:
        name = type(codec).__name__
        raise ConfigError(f"the probe {message!r} cannot be encoded by the codec {name}: {told(error)}") from error


def _is_answered(sock: socket.socket, codec: Codec, data: bytes) -> bool:
    """Send the probe; whether a message came back before the end. ConfigError if what came is no message."""
    try:
        while data:
            wait_write(sock.fileno())
            data = data[sock.send(data) :]
    except OSError:  # the end has come already; there may be an answer before it
        pass
    while True:
        wait_read(sock.fileno())
        try:
            received = sock.recv(RECEIVE_BYTES)
        except OSError:
            return False
        if not received:
            return False
        try:
            codec.receive(received)
            for _ in codec.messages():
                return True
        except ProtocolError as error:
            raise ConfigError(f"the answer to the probe breaks the framing: {error}") from error
        except Exception as error:
            codec_name = type(codec).__name__
            raise ConfigError(f"the codec {codec_name} cannot read the answer to the probe: {told(error)}") from error


def _closed(counters: Counters) -> str:
    return f"the connection was closed ({', '.join(reason.value for reason in counters.closed)})"


class _Witness:
    """Sees what fails on the way of a probe.

    service: what is served to it: `service`, but without on_open and on_close if those are not asked for.
    account: what has failed first, in words; empty if nothing has.
    hint: what may be the reason, to be put behind the account.
    """

    def __init__(self, service: Service | StreamService) -> None:
        self.account = self.hint = self._unopened = ""
        self.service = copy.copy(service)
        served = self.service
        if isinstance(served, StreamService):
            served.handle = self._watched("the handler", served.handle)
            return
        served.on_error = self._told_of(served.on_error)
        if not served.probe_on_open:
            if served.on_open is not None:
                self._unopened = " (on_open is not called for the probe, unless with probe_on_open=True)"
            served.on_open = served.on_close = None
        elif served.on_open is not None:
            served.on_open = self._watched("on_open", served.on_open)

    def _note(self, account: str) -> None:
        self.account = self.account or account

    def _watched(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except (ConnectionClosed, GreenletExit):  # the natural end of many a stream; what is an error is counted
                raise
            except BaseException as error:
                self._note(f"{what} raised {told(error)}")
                raise

        return call

    def _told_of(self, on_error: Callable[..., Any]) -> Callable[..., Any]:
        def tell(fault: Any, conn: Any) -> Any:
            if isinstance(fault, Malformed):
                self._note(f"the codec takes it for malformed: {fault.message}")
            elif isinstance(fault, ProtocolError | LimitExceeded):
                self._note(f"the codec does not take it: {fault}")
            else:
                self._note(f"the handler raised {told(fault)}")
                self.hint = self._unopened
            return on_error(fault, conn)

        return tell
