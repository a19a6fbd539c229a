"""Users that need no code: for an echo server, for a JSON server, and for any message on any codec.

They have no wait_time of their own; --rate and --depth set their pace.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

from gserver.codecs import Codec, JsonLines
from loadtests.optional_packages import needs
from loadtests.users.tcp_user import TcpUser
from loadtests.workloads.custom_message import Echoed, parse_message

with needs():
    from locust import task
    from locust.env import Environment

__all__ = ["EchoUser", "JsonUser", "MessageUser"]


class EchoUser(TcpUser):
    """Sends --payload bytes, different each time, and expects them back unchanged."""

    codec = Echoed
    _numbers = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        size = max(1, getattr(environment.parsed_options, "payload", 64))
        self._head = random.randbytes(6).hex().encode() + b"-%d "
        self._filler = b"x" * size
        self._size = size - 1

    @task
    def echo(self) -> None:
        message = (self._head % next(self._numbers) + self._filler)[: self._size] + b"\n"
        self.exchange("echo", message, message)


class JsonUser(TcpUser):
    """Sends GREETING and SUM in newline-framed JSON, with random arguments."""

    codec = JsonLines

    @task
    def greeting(self) -> None:
        name = f"user-{random.getrandbits(32):08x}"
        self.exchange("GREETING", {"type": "GREETING", "name": name}, {"status": "OK", "reply": f"Hello, {name}!"})

    @task
    def sum(self) -> None:
        a, b = random.getrandbits(30), random.getrandbits(30)
        self.exchange("SUM", {"type": "SUM", "a": a, "b": b}, {"status": "OK", "result": a + b})


class MessageUser(TcpUser):
    """Sends the same --message in --codec each time; any complete message is a correct reply, or only --expect."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options: Any = environment.parsed_options
        self._custom = parse_message(options.message, options.codec, options.expect)

    def make_codec(self) -> Codec:
        return self._custom.codec()

    @task
    def message(self) -> None:
        self.exchange("message", self._custom.message, self._custom.expected)
