"""How many bytes one read takes, and how many may wait to be sent. _native.c has both at compile time."""

from __future__ import annotations

__all__ = ["HIGH_WATER", "RECEIVE_BYTES"]

#: The most bytes that one receive takes.
RECEIVE_BYTES = 64 * 1024
#: With more bytes than this in the outbox, a sending greenlet waits.
HIGH_WATER = 64 * 1024
