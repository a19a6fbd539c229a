"""A user for `loadtests run --file`: a device of device_gateway.py. It logs in, and each of its replies is checked."""

from __future__ import annotations

import itertools
import os
import time

from device_gateway import READING, token_of
from locust import task

from gserver import LengthPrefixed
from loadtests.users import TcpUser

numbers = itertools.count()


class Device(TcpUser):
    codec = LengthPrefixed

    def on_start(self) -> None:
        super().on_start()
        name = b"load-%d-%d" % (os.getpid(), next(numbers))
        self.exchange("login", b"L%b:%b" % (name, token_of(name)), b"L")

    @task(9)
    def reading(self) -> None:
        self.exchange("reading", b"R" + READING.pack(int(time.time()), 2150, 3300), b"R")

    @task
    def heartbeat(self) -> None:
        self.exchange("heartbeat", b"H", b"H")
