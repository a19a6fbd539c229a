"""Which engine serves a service, and with which turn: by the kind of service, the shape asked for, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gserver.connection.log_throttling import Notices
from gserver.connection.time_slice import Fairness
from gserver.counters import Counters
from gserver.engine.message_loop import MessageLoop
from gserver.engine.native_loop import make_message_loop
from gserver.engine.rate_limiter import Meter, StreamMeter
from gserver.engine.schedulers import DedicatedEngine, Engine, PooledEngine
from gserver.engine.stream_scheduler import StreamEngine
from gserver.errors import ConfigError
from gserver.limits.connection_limits import Limits
from gserver.service import Service, StreamService

__all__ = ["make_engine"]

_SHAPES: dict[str, Callable[[MessageLoop], Engine[Any]]] = {"pooled": PooledEngine, "dedicated": DedicatedEngine}


def make_engine(
    service: Service | StreamService,
    greenlets: str,
    counters: Counters,
    fairness: Fairness,
    limits: Limits,
    notices: Notices,
) -> Engine[Any]:
    """`greenlets`: "pooled" or "dedicated", else ConfigError; a stream handler always has a greenlet of its own."""
    meter = Meter.of(limits, notices)
    if isinstance(service, StreamService):
        return StreamEngine(service, counters, fairness, None if meter is None else StreamMeter(meter))
    if greenlets not in _SHAPES:
        raise ConfigError(f"greenlets is {greenlets!r}, must be 'pooled' or 'dedicated'")
    return _SHAPES[greenlets](make_message_loop(service, counters, fairness, meter))
