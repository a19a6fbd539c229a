"""One real exchange with a server, before a swarm is let loose on it: whether it is there, and speaks as expected."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from gserver.client import Client
from gserver.codecs import JsonLines, Raw
from gserver.errors import GServerError
from loadtests.host.subprocesses import NotAnswering
from loadtests.workloads.custom_message import Asked, asked_of
from loadtests.workloads.profiles import Profile

__all__ = ["Probe"]

TIMEOUT_S = 2.0
SHORTEST_S = 0.05
_ECHO = Asked(b"ready?\n", b"ready?\n", Raw)
_JSON = Asked({"type": "SUM", "a": 1, "b": 2}, {"status": "OK", "result": 3}, JsonLines)
_BY_USER = {"EchoUser": _ECHO, "SlowReader": _ECHO, "JsonUser": _JSON, "ChurnUser": _JSON}


@dataclass(frozen=True)
class Probe:
    """What `user` would ask and be told; without `asked`, as with users that nobody knows, only a connection."""

    user: str
    asked: Asked | None

    @classmethod
    def of(cls, profile: Profile, is_tls: bool = False) -> Probe:
        """ValueError if the profile's message is none."""
        if profile.user == "MessageUser":
            return cls(profile.user, asked_of(profile.message, profile.codec, profile.expect) if not is_tls else None)
        return cls(profile.user, None if is_tls or profile.file else _BY_USER.get(profile.user))

    def await_answer(
        self, address: tuple[str, int], patience_s: float, has_ended: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until the server answers; NotAnswering if it does not in `patience_s` seconds."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._exchange(address, min(TIMEOUT_S, max(SHORTEST_S, deadline - time.monotonic())))
            except (OSError, GServerError) as error:
                shown = f"{address[0]}:{address[1]}"
                if has_ended():
                    raise NotAnswering(f"the server at {shown} ended before it answered") from None
                if time.monotonic() > deadline:
                    within = f"within {patience_s:.3g} s"
                    raise NotAnswering(f"the server at {shown} does not answer {within}: {error}") from None
            time.sleep(0.05)

    def _exchange(self, address: tuple[str, int], timeout_s: float) -> None:
        if self.asked is None:
            socket.create_connection(address, timeout_s).close()
            return
        with Client(address, self.asked.codec(), timeout_s=timeout_s) as client:
            reply = client.call(self.asked.message)
        if self.asked.expected is not None and reply != self.asked.expected:
            shown = f"{address[0]}:{address[1]}"
            raise NotAnswering(f"the server at {shown} does not speak as {self.user} does: it answered {reply!r}"[:300])
