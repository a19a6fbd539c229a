"""The limits on connections and rates, as one value. Pure.

Timeouts are in deadlines.py; the codec limits the size of a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gserver.limits.access_list import Network

__all__ = ["Action", "FullAction", "Limits", "RateAction"]

#: refuse: send the reason, if the service does so, and close; close: send nothing.
Action = Literal["refuse", "close"]
#: shed: close the longest idle connection instead, or refuse if none is idle.
FullAction = Literal["refuse", "close", "shed"]
#: throttle: read the connection no faster than the rate.
RateAction = Literal["throttle", "refuse", "close"]


@dataclass(frozen=True)
class Limits:
    """The limits; 0 means no limit. Without another comment, a limit is for all workers together."""

    worker_connections: int = 0  # per worker
    max_connections: int = 0
    full_action: FullAction = "refuse"
    max_connections_per_ip: int = 0
    max_connections_per_network: int = 0
    ipv4_network_bits: int = 24
    ipv6_network_bits: int = 48
    ip_action: Action = "refuse"
    max_accept_rate: float = 0.0  # per second
    accept_rate_action: Action = "refuse"
    max_message_rate: float = 0.0  # per second and connection
    max_byte_rate: float = 0.0  # received bytes, per second and connection
    rate_action: RateAction = "throttle"
    allow: tuple[Network, ...] = ()  # empty: all addresses
    deny: tuple[Network, ...] = ()

    @property
    def rates(self) -> tuple[float, float, RateAction]:
        """The limits on what one connection sends."""
        return self.max_message_rate, self.max_byte_rate, self.rate_action
