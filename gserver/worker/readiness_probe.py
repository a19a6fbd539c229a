"""The readiness probe: a new worker must reply to one real message before it accepts connections.

The message is that of the built-in service, or the one that the service defines as its probe. It is sent over a private
socket pair without TLS. conn.is_probe is True for that connection, and on_open, on_drain and on_close are called for it
only with probe_on_open. Each kind of failure is a ConfigError with its own message.
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
from gserver.connection.buffer_sizes import RECEIVE_BYTES
from gserver.connection.connection import PROBE_PEER
from gserver.counters import Counters
from gserver.errors import ConfigError, ConnectionClosed, LimitExceeded, ProtocolError
from gserver.server.tcp_server import TcpServer
from gserver.service import Service, StreamService
from gserver.user_errors import described

__all__ = ["PEER", "probe"]

PEER = PROBE_PEER
# How long the handler may take to return after its reply.
FINISH_S = 1.0


def probe(
    service: Service | StreamService, timeout_s: float | None, used_s: float = 0.0, *, listener_name: str = ""
) -> None:
    """Send the service's probe through codec, engine and handler; ConfigError if there is no proper reply.

    Blocks the calling greenlet for up to `timeout_s` - `used_s`: the latter is the part of the timeout that has passed.
    None: no limit.

    Args:
        listener_name: conn.listener of the connection.
    """
    if service.probe is None:
        return
    codec = service.codec()
    message = _encoded(codec, service.probe)
    recorder = _FailureRecorder(service)
    ours, theirs = socket.socketpair()
    served = _socket.socket(fileno=theirs.detach())
    for end in (ours, served):
        end.setblocking(False)
    # Not the worker's counters: a worker that is killed during the probe would leave a connection of no client there.
    counters = Counters()
    # Never started: it accepts nothing.
    server = TcpServer(("", 0), recorder.service, counters=counters, name=listener_name)
    try:
        server.adopt(served, PEER)
        left_s = None if timeout_s is None else max(0.0, timeout_s - used_s)
        with gevent.Timeout(left_s, ConfigError(f"the probe was not answered within {timeout_s or 0:g} s")):
            is_answered = _is_answered(ours, codec, message)
    finally:
        ours.close()
        unfinished = server.drain(FINISH_S)
    if not is_answered:
        raise ConfigError(f"the probe was not answered: {recorder.failure or _describe_close(counters)}{recorder.hint}")
    if unfinished:
        raise ConfigError("the handler of the probe did not return")
    if counters.errors or recorder.failure:
        failure = recorder.failure or "see the log"
        raise ConfigError(f"the probe was answered with an error: {failure}{recorder.hint}")


def _encoded(codec: Codec, message: Any) -> bytes:
    try:
        return codec.encode(message)
    except BaseException as error:
        name = type(codec).__name__
        raise ConfigError(f"the probe {message!r} cannot be encoded by the codec {name}: {described(error)}") from error


def _is_answered(sock: socket.socket, codec: Codec, data: bytes) -> bool:
    """Send the probe; return whether a reply arrived before end-of-file. ConfigError if the reply is not a message."""
    try:
        while data:
            wait_write(sock.fileno())
            data = data[sock.send(data) :]
    except OSError:  # the connection is closed already; there may be a reply before that
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
            raise ConfigError(f"the reply to the probe breaks the framing: {error}") from error
        except Exception as error:
            codec_name = type(codec).__name__
            raise ConfigError(
                f"the codec {codec_name} cannot read the reply to the probe: {described(error)}"
            ) from error


def _describe_close(counters: Counters) -> str:
    return f"the connection was closed ({', '.join(reason.value for reason in counters.closed)})"


class _FailureRecorder:
    """Records the first failure of a probe.

    Attributes:
        service: a copy of the service that records failures, without on_open, on_drain and on_close unless
            probe_on_open is set.
        failure: the first failure as text; empty if there was none.
        hint: a possible reason, to be appended to the failure.
    """

    def __init__(self, service: Service | StreamService) -> None:
        self.failure = self.hint = self._on_open_hint = ""
        self.service = copy.copy(service)
        served = self.service
        if isinstance(served, StreamService):
            served.handle = self._recording("the handler", served.handle)
            return
        served.on_error = self._recording_errors(served.on_error)
        if not served.probe_on_open:
            if served.on_open is not None:
                self._on_open_hint = " (on_open is called for the probe only with probe_on_open=True)"
            served.on_open = served.on_drain = served.on_close = None
            return
        if served.on_open is not None:
            served.on_open = self._recording("on_open", served.on_open)
        if served.on_drain is not None:
            served.on_drain = self._recording("on_drain", served.on_drain)

    def _record(self, failure: str) -> None:
        self.failure = self.failure or failure

    def _recording(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except (ConnectionClosed, GreenletExit):  # the usual end of a stream; errors are counted elsewhere
                raise
            except BaseException as error:
                self._record(f"{what} raised {described(error)}")
                raise

        return call

    def _recording_errors(self, on_error: Callable[..., Any]) -> Callable[..., Any]:
        def record(fault: Any, conn: Any) -> Any:
            if isinstance(fault, Malformed):
                self._record(f"the codec reports it as malformed: {fault.message}")
            elif isinstance(fault, ProtocolError | LimitExceeded):
                self._record(f"the codec refuses it: {fault}")
            else:
                self._record(f"the handler raised {described(fault)}")
                self.hint = self._on_open_hint
            return on_error(fault, conn)

        return record
