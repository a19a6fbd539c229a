"""Units of measurement that several packages convert between. Pure."""

from __future__ import annotations

__all__ = ["NS_IN_S"]

#: Nanoseconds in a second.
NS_IN_S = 10**9
