"""A user for `loadtests run --file`: a member of chat.py in a room of its own, which gets its messages back."""

from __future__ import annotations

import itertools
import os

from locust import task

from gserver import Lines
from loadtests.users import TcpUser

numbers = itertools.count()


class Member(TcpUser):
    codec = Lines

    def on_start(self) -> None:
        super().on_start()
        self.name = b"m%d-%d" % (os.getpid(), next(numbers))
        self.exchange("nick", b"/nick " + self.name, b"* guest is now " + self.name)
        self.exchange("join", b"/join " + self.name, b"* " + self.name + b" is here")

    @task
    def talk(self) -> None:
        text = b"message %d" % next(numbers)
        self.exchange("talk", text, self.name + b": " + text)
