"""What may come in, and how fast; pure. Deadlines are in deadlines.py, the size of a message is its codec's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gserver.limits.access_list import Network

__all__ = ["Action", "FullAction", "Limits", "RateAction"]

#: refuse: say why, where the protocol can, and close; close: without a word.
Action = Literal["refuse", "close"]
#: shed: close the longest idle connection instead, or refuse if none is idle.
FullAction = Literal["refuse", "close", "shed"]
#: throttle: read no faster.
RateAction = Literal["throttle", "refuse", "close"]


@dataclass(frozen=True)
class Limits:
    """0 means no limit. What is not said to be of one connection is of all workers together."""

    worker_connections: int = 0  # of one worker
    max_connections: int = 0
    full_action: FullAction = "refuse"
    max_connections_per_ip: int = 0
    max_connections_per_network: int = 0
    ipv4_network_bits: int = 24
    ipv6_network_bits: int = 48
    ip_action: Action = "refuse"
    max_accept_rate: float = 0.0  # a second
    accept_rate_action: Action = "refuse"
    max_message_rate: float = 0.0  # a second, of one connection
    max_byte_rate: float = 0.0  # received, a second, of one connection
    rate_action: RateAction = "throttle"
    allow: tuple[Network, ...] = ()  # empty: everybody
    deny: tuple[Network, ...] = ()
