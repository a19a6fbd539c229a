"""The Locust file of benchmarks.swarm_speed: the users that it measures."""

from __future__ import annotations

import itertools
import json
import random
import socket
import time
from pathlib import Path
from typing import Any

from locust import User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.users.standard_users import EchoUser

__all__ = ["EchoUser", "PlainEcho"]

_numbers = itertools.count()


class PlainEcho(User):
    """An echo user as in Locust's documentation."""

    wait_time = constant(0)

    def on_start(self) -> None:
        host, port = str(self.host).removeprefix("tcp://").split(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = random.randbytes(6).hex().encode() + b"-%d "

    @task
    def echo(self) -> None:
        message = (self._head % next(_numbers) + b"x" * 64)[:63] + b"\n"
        start = time.perf_counter()
        self._socket.sendall(message)
        reply = self._socket.recv(65536)
        while len(reply) < len(message):
            reply += self._socket.recv(65536)
        self.environment.events.request.fire(
            request_type="TCP",
            name="echo",
            response_time=1000 * (time.perf_counter() - start),
            response_length=len(reply),
            exception=None if reply == message else ValueError(f"expected {message!r}, got {reply!r}"),
            context=self.context(),
        )


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_argument(parser: LocustArgumentParser) -> None:
    parser.add_argument("--measured", help="file for the result", include_in_web_ui=False)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Environment, **_: Any) -> None:
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    path = Path(str(environment.parsed_options.measured))  # type: ignore[union-attr]

    def write_report() -> None:
        elapsed_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        entry = environment.stats.get("echo", "TCP")
        assert not entry.num_failures
        report = {"exchanges": entry.num_requests, "elapsed_s": elapsed_s, "cpu_s": cpu_s}
        path.write_text(json.dumps(report))

    events.test_stop.add_listener(lambda **_: write_report())  # type: ignore[no-untyped-call]
