"""The framed probe: a new worker answers one real message over a private socket pair before it takes connections."""

from __future__ import annotations

import _socket
import socket
from typing import Any

import gevent
from gevent.socket import wait_read, wait_write

from gserver.errors import ConfigError, ProtocolError
from gserver.ledger import Ledger
from gserver.server import TcpServer
from gserver.service import Service, StreamService

__all__ = ["PEER", "probe"]

PEER = "probe"
RECEIVE_BYTES = 64 * 1024
# What a handler gets to return after its answer.
FINISH_S = 1.0


def probe(service: Service | StreamService, ledger: Ledger, timeout_s: float | None) -> None:
    """Send the service's probe through codec, engine and handler; ConfigError if it is not answered in order.

    Blocks the calling greenlet. `ledger`: what the probe is counted in; it is cleared afterwards.
    """
    if service.probe is None:
        return
    ours, theirs = socket.socketpair()
    served = _socket.socket(fileno=theirs.detach())
    for end in (ours, served):
        end.setblocking(False)
    server = TcpServer(("", 0), service, ledger=ledger)  # never started: it accepts nothing
    try:
        server.adopt(served, PEER)
        with gevent.Timeout(timeout_s, ConfigError(f"the probe was not answered within {timeout_s} s")):
            _ask(ours, service)
    except OSError as error:
        raise ConfigError(f"the probe was not answered: {error.strerror}") from error
    except ProtocolError as error:
        raise ConfigError(f"the answer to the probe breaks the framing: {error}") from error
    finally:
        ours.close()
        unfinished = server.drain(FINISH_S)
    if unfinished:
        raise ConfigError("the handler of the probe did not return")
    if ledger.errors:
        raise ConfigError("the probe was answered with an error: see the log")
    ledger.clear()


def _ask(sock: socket.socket, service: Service | StreamService) -> Any:
    codec = service.codec()
    data = codec.encode(service.probe)
    while data:
        wait_write(sock.fileno())
        data = data[sock.send(data) :]
    while True:
        wait_read(sock.fileno())
        received = sock.recv(RECEIVE_BYTES)
        if not received:
            raise ConfigError("the probe was not answered: the connection was closed")
        codec.receive(received)
        for message in codec.messages():
            return message
