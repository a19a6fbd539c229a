"""Clients of a server, on the codecs of the server: Client is one connection, Pool is several with reconnect.

The command is `python -m gserver.client`. docs/clients.md shows them with examples.
"""

from __future__ import annotations

from gserver.client.client import Client
from gserver.client.pool import Pool

__all__ = ["Client", "Pool"]
