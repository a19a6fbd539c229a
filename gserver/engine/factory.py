"""Makes the engine for a service, by the kind of service, the setting `greenlets` and the rate limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gserver.connection.log_throttling import Notices
from gserver.connection.time_slice import Fairness
from gserver.counters import Counters
from gserver.engine.message_loop import MessageLoop
from gserver.engine.native_loop import make_message_loop
from gserver.engine.rate_limiter import RateLimiter, StreamRateLimiter
from gserver.engine.schedulers import DedicatedEngine, Engine, PooledEngine
from gserver.engine.stream_scheduler import StreamEngine
from gserver.errors import ConfigError
from gserver.limits.connection_limits import Limits
from gserver.service import Service, StreamService

__all__ = ["change_rates", "make_engine"]

_ENGINES: dict[str, Callable[[MessageLoop], Engine[Any]]] = {"pooled": PooledEngine, "dedicated": DedicatedEngine}


def make_engine(
    service: Service | StreamService,
    greenlets: str,
    counters: Counters,
    fairness: Fairness,
    limits: Limits,
    notices: Notices,
) -> Engine[Any]:
    """Make the engine that serves `service`.

    Args:
        service: what is served; `greenlets` has no effect on a stream handler, which has one for each connection.
        greenlets: "pooled" or "dedicated"; ConfigError for anything else.
        counters: where messages and errors are counted.
        fairness: the queue of connections that have used up their time slice.
        limits: connections are metered if they contain a rate.
        notices: logs the connections that exceed a rate.
    """
    meter = RateLimiter.of(limits, notices)
    if isinstance(service, StreamService):
        return StreamEngine(service, counters, fairness, None if meter is None else StreamRateLimiter(meter))
    if greenlets not in _ENGINES:
        raise ConfigError(f"greenlets is {greenlets!r}, must be 'pooled' or 'dedicated'")
    return _ENGINES[greenlets](make_message_loop(service, counters, fairness, meter))


def change_rates(
    engine: Engine[Any],
    service: Service | StreamService,
    counters: Counters,
    fairness: Fairness,
    limits: Limits,
    notices: Notices,
) -> None:
    """Meter the connections of `engine` by the rates of `limits` from now on; the arguments are make_engine()'s.

    The caller calls engine.rates_changed() for each connection.
    """
    meter = RateLimiter.of(limits, notices)
    if isinstance(engine, StreamEngine):
        engine.throttle_by(None if meter is None else StreamRateLimiter(meter))
    elif isinstance(engine, PooledEngine | DedicatedEngine) and isinstance(service, Service):
        engine.use(make_message_loop(service, counters, fairness, meter))
