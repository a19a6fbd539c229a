"""Checks by one exchange that a server is ready and uses the expected protocol, before the swarm starts."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from gserver.client import Client
from gserver.codecs import JsonLines, Raw
from gserver.errors import GServerError
from loadtests.host.subprocesses import NotAnswering
from loadtests.workloads.custom_message import CustomMessage, parse_message
from loadtests.workloads.profiles import Profile

__all__ = ["Probe"]

TIMEOUT_S = 2.0
SHORTEST_S = 0.05
_ECHO = CustomMessage(b"ready?\n", b"ready?\n", Raw)
_JSON = CustomMessage({"type": "SUM", "a": 1, "b": 2}, {"status": "OK", "result": 3}, JsonLines)
_BY_USER = {"EchoUser": _ECHO, "SlowReader": _ECHO, "JsonUser": _JSON, "ChurnUser": _JSON}


@dataclass(frozen=True)
class Probe:
    """The exchange of the readiness check.

    Attributes:
        user: the user class that makes such exchanges, for the error message.
        exchange: the request and the expected reply; None: only connect, as for TLS and for unknown user classes.
    """

    user: str
    exchange: CustomMessage | None

    @classmethod
    def of(cls, profile: Profile, is_tls: bool = False) -> Probe:
        """The exchange of the profile's users; ValueError if its message cannot be encoded."""
        if profile.user == "MessageUser":
            return cls(
                profile.user, parse_message(profile.message, profile.codec, profile.expect) if not is_tls else None
            )
        return cls(profile.user, None if is_tls or profile.file else _BY_USER.get(profile.user))

    def await_reply(
        self, address: tuple[str, int], patience_s: float, has_ended: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until the server replies as expected.

        NotAnswering if it does not within `patience_s` seconds, if `has_ended()`, or if the reply is wrong.
        """
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self._exchange(address, min(TIMEOUT_S, max(SHORTEST_S, deadline - time.monotonic())))
            except (OSError, GServerError) as error:
                shown = f"{address[0]}:{address[1]}"
                if has_ended():
                    raise NotAnswering(f"the server at {shown} ended before it replied") from None
                if time.monotonic() > deadline:
                    within = f"within {patience_s:.3g} s"
                    raise NotAnswering(f"the server at {shown} does not reply {within}: {error}") from None
            time.sleep(0.05)

    def _exchange(self, address: tuple[str, int], timeout_s: float) -> None:
        if self.exchange is None:
            socket.create_connection(address, timeout_s).close()
            return
        with Client(address, self.exchange.codec(), timeout_s=timeout_s) as client:
            reply = client.call(self.exchange.message)
        if self.exchange.expected is not None and reply != self.exchange.expected:
            shown = f"{address[0]}:{address[1]}"
            raise NotAnswering(f"the server at {shown} does not reply as {self.user} expects: it sent {reply!r}"[:300])
