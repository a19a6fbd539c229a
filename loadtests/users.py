"""Locust users for raw TCP, on gserver's codecs.

A TcpUser holds one connection. Connecting is a request of its own ("TCP connect"), with retries; an exchange sends a
message, waits for its reply and holds it against what was expected. Locust's own `events.request.measure()` is not
used: it hides exceptions, and counts a request that is cut off by the end of the test as a success.
"""

from __future__ import annotations

import itertools
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import GreenletExit
from locust import User, task
from locust.env import Environment

from gserver.errors import IncompleteMessage, ProtocolError
from gserver.framing import Codec, JsonLines, Malformed, Raw
from loadtests.address import parse_host
from loadtests.hooks import RECORDER
from loadtests.pacing import Schedule
from loadtests.recording import CUT_OFF

__all__ = ["EchoUser", "JsonUser", "TcpUser", "WrongReply"]

RECEIVE_BYTES = 64 * 1024


class WrongReply(Exception):
    """The server answered, and not what was asked for."""


class PeerFinished(Exception):
    """The server ended the connection instead of answering."""


def outcome_of(error: BaseException) -> str:
    """The class under which a failure is counted."""
    kinds: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (WrongReply, "mismatch"),
        ((PeerFinished, IncompleteMessage), "eof"),
        (ProtocolError, "protocol"),
        (ConnectionRefusedError, "refused"),
        (TimeoutError, "timeout"),
        ((ConnectionResetError, BrokenPipeError, ConnectionAbortedError), "reset"),
        (OSError, "os_error"),
    ]
    return next((name for kind, name in kinds if isinstance(error, kind)), "error")


class TcpUser(User):
    """One connection, and exchanges on it. Subclass it, set `codec`, and call exchange() in @task methods.

    Attributes:
        codec: makes a codec for each connection; default JsonLines.
        connect_timeout_s, reply_timeout_s: seconds; 5 and 10.
        connect_attempts: tries before a task gives up until its next turn; 5, with a jittered pause that doubles.
    """

    abstract = True
    codec: Callable[[], Codec] = JsonLines
    connect_timeout_s = 5.0
    reply_timeout_s = 10.0
    connect_attempts = 5

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._socket: socket.socket | None = None
        self._codec: Codec = type(self).codec()
        self._replies: deque[Any] = deque()
        rate = getattr(environment.parsed_options, "rate", 1.0)
        self._schedule: Schedule | None = None
        self._period_s = 1 / rate if rate > 0 else 0.0

    def on_start(self) -> None:
        """Locust starts the users of a second in one burst: spread their connects over that second."""
        gevent.sleep(random.random())
        self._connected()
        if self._period_s:
            self._schedule = Schedule(self._period_s, random.random(), time.monotonic())
            gevent.sleep(self._schedule.wait_s(time.monotonic()))

    def on_stop(self) -> None:
        self.disconnect()

    def wait_time(self) -> float:
        """Until the next exchange is due, for --rate exchanges a second; at once with --rate 0."""
        return self._schedule.wait_s(time.monotonic()) if self._schedule else 0.0

    # Exchanges

    def exchange(self, name: str, message: Any, expected: Any = None) -> Any:
        """Send `message`, wait for its reply, record it under `name`; return the reply, or None if it failed.

        A reply other than `expected` (unless that is None) is a failure. A failure closes the connection; the next
        exchange opens another.
        """
        sock = self._connected()
        if sock is None:
            return None
        start_ns = time.monotonic_ns()
        reply = None
        try:
            sock.sendall(self._codec.encode(message))
            reply = self.await_reply(sock, message)
            if expected is not None and reply != expected:
                raise WrongReply(f"expected {_short(expected)}, got {_short(reply)}")
        except GreenletExit:
            RECORDER.recording.ended(name, time.monotonic_ns(), CUT_OFF)
            raise
        except Exception as error:
            self.disconnect()
            self._record(name, start_ns, error, None)
            return None
        self._record(name, start_ns, None, reply)
        return reply

    def await_reply(self, sock: socket.socket, message: Any) -> Any:
        """Receive the reply to `message`: here the codec's next message."""
        while not self._replies:
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                self._codec.eof()
                raise PeerFinished("the server closed the connection")
            self._codec.receive(data)
            self._replies.extend(self._codec.messages())
        reply = self._replies.popleft()
        if isinstance(reply, Malformed):
            raise WrongReply(f"{reply.message}: {reply.detail}")
        return reply

    def _record(self, name: str, start_ns: int, error: Exception | None, reply: Any) -> None:
        end_ns = time.monotonic_ns()
        if error is None:
            RECORDER.recording.succeeded(name, end_ns, end_ns - start_ns)
        else:
            RECORDER.recording.ended(name, end_ns, outcome_of(error))
        self.environment.events.request.fire(
            request_type="TCP",
            name=name,
            response_time=(end_ns - start_ns) / 1e6,
            response_length=len(reply) if isinstance(reply, bytes) else 0,
            response=reply,
            context=self.context(),
            exception=error,
            start_time=time.time() - (end_ns - start_ns) / 1e9,
        )

    # The connection

    def _connected(self) -> socket.socket | None:
        """The connection, opened if there is none; None if that failed every time."""
        for attempt in range(self.connect_attempts):
            if self._socket is not None:
                break
            if attempt:
                gevent.sleep(random.uniform(0.5, 1.5) * 0.1 * 2**attempt)
            self._connect()
        return self._socket

    def _connect(self) -> None:
        start_ns = time.monotonic_ns()
        try:
            sock = socket.create_connection(parse_host(self.environment.host or self.host), self.connect_timeout_s)
        except GreenletExit:
            RECORDER.recording.ended("connect", time.monotonic_ns(), CUT_OFF)
            raise
        except (OSError, ValueError) as error:  # ValueError: a host that cannot be one
            self._record("connect", start_ns, error, None)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self.reply_timeout_s)
        self._socket = sock
        self._codec = type(self).codec()
        self._replies.clear()
        RECORDER.open_sockets += 1
        self._record("connect", start_ns, None, None)

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        sock, self._socket = self._socket, None
        if sock is not None:
            RECORDER.open_sockets -= 1
            sock.close()


def _short(thing: Any) -> str:
    text = repr(thing)
    return text if len(text) <= 80 else f"{text[:80]}... ({len(text)} characters)"


class EchoUser(TcpUser):
    """Bytes that no other message has, which must come back as they are."""

    codec = Raw
    _numbers = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        size = getattr(environment.parsed_options, "payload", 64)
        self._size = max(1, size)
        self._salt = random.randbytes(6).hex()

    @task
    def echo(self) -> None:
        head = f"{self._salt}-{next(self._numbers)} ".encode()
        message = (head + b"x" * self._size)[: self._size - 1] + b"\n"
        self.exchange("echo", message, message)

    def await_reply(self, sock: socket.socket, message: bytes) -> bytes:
        """As many bytes as were sent: TCP does not keep them together."""
        reply = sock.recv(len(message))
        while len(reply) < len(message):
            if not reply:
                raise PeerFinished("the server closed the connection")
            more = sock.recv(len(message) - len(reply))
            if not more:
                raise PeerFinished(f"the server stopped after {len(reply)} of {len(message)} bytes")
            reply += more
        return reply


class JsonUser(TcpUser):
    """GREETING and SUM in newline-framed JSON, with arguments of its own."""

    codec = JsonLines

    @task
    def greeting(self) -> None:
        name = f"user-{random.getrandbits(32):08x}"
        self.exchange("GREETING", {"type": "GREETING", "name": name}, {"status": "OK", "reply": f"Hello, {name}!"})

    @task
    def sum(self) -> None:
        a, b = random.getrandbits(30), random.getrandbits(30)
        self.exchange("SUM", {"type": "SUM", "a": a, "b": b}, {"status": "OK", "result": a + b})
