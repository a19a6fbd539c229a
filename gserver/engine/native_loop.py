"""Selects the message loop in C if gserver was compiled; _native.c does the same as message_loop.py.

CPU time per message relative to message_loop.py in the same run, one worker, 50 sockets: echo with one message in
flight 0.75, JSON 0.82, JSON with 16 messages in flight 0.9.
"""

from __future__ import annotations

from gserver.codecs import JsonLines, Malformed, Raw
from gserver.codecs.json_values import encode_json
from gserver.connection.connection import State
from gserver.connection.native_fields import IS_NATIVE
from gserver.connection.time_slice import Fairness
from gserver.counters import HANDLER_NS, MESSAGES, SHORTEST_NS, TIME_BUCKETS, Counters
from gserver.engine.message_loop import MessageLoop
from gserver.engine.rate_limiter import RateLimitedMessageLoop, RateLimiter
from gserver.fault_isolation import Killed
from gserver.service import Service

__all__ = ["make_message_loop"]

if IS_NATIVE:
    from gserver._native import CompiledLoop

    class NativeMessageLoop(CompiledLoop, MessageLoop):
        """A MessageLoop with compiled serve(), dispatch() and serve_parking(); the rest is inherited."""

        def __init__(self, service: Service, counters: Counters, fairness: Fairness) -> None:
            super().__init__(service, counters, fairness)
            codecs = (Raw, JsonLines, encode_json, Malformed)
            timing = (HANDLER_NS, TIME_BUCKETS, SHORTEST_NS, self._sample_in)
            self.bind(self._on_message, counters.cells, MESSAGES, timing, *codecs, Killed, State.OPEN)


def make_message_loop(
    service: Service, counters: Counters, fairness: Fairness, meter: RateLimiter | None = None
) -> MessageLoop:
    """Return the fastest message loop that is available.

    With a meter it is the one in Python, the slower one: a throttled connection waits longer than a turn takes anyway.
    """
    if meter is not None:
        return RateLimitedMessageLoop(service, counters, fairness, meter)
    return (NativeMessageLoop if IS_NATIVE else MessageLoop)(service, counters, fairness)
