"""The ledger of connections: accepted == open + sum(closed by reason), at every moment."""

from __future__ import annotations

from collections import Counter

from gserver.errors import CloseReason

__all__ = ["Ledger"]


class Ledger:
    """Counts what came in and how it ended."""

    def __init__(self) -> None:
        self.accepted = 0
        self.open = 0
        self.closed: Counter[CloseReason] = Counter()

    def opened(self) -> None:
        self.accepted += 1
        self.open += 1

    def ended(self, reason: CloseReason) -> None:
        self.open -= 1
        self.closed[reason] += 1

    def check(self) -> None:
        """AssertionError if a connection was counted twice or not at all."""
        assert self.accepted == self.open + self.closed.total(), self
        assert self.open >= 0, self

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason.value} {count}" for reason, count in self.closed.most_common())
        return f"accepted {self.accepted}, open {self.open}, closed: {reasons or 'none'}"
