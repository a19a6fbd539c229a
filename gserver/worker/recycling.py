"""Recycling: decides from messages, age and memory whether a worker is to be replaced. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gserver.config.settings import Settings

__all__ = ["RecyclingLimits"]


@dataclass(frozen=True)
class RecyclingLimits:
    """The limits of one worker, with its jitter included; 0: no limit."""

    messages: int
    age_s: float
    rss_bytes: int

    @classmethod
    def of(cls, settings: Settings, dice: random.Random) -> RecyclingLimits:
        """Draw the limits. The jitter prevents that workers which started together are recycled together."""

        def drawn(limit: float, jitter: float) -> float:
            return limit + dice.uniform(0, jitter) if limit else 0

        return cls(
            int(drawn(settings.max_requests, settings.max_requests_jitter)),
            drawn(settings.worker_max_age, settings.worker_max_age_jitter),
            int(drawn(settings.worker_max_rss, settings.worker_max_rss_jitter)),
        )

    @property
    def checks_memory(self) -> bool:
        return self.rss_bytes > 0

    def reason(self, messages: int, age_s: float, rss_bytes: int) -> str | None:
        """Why a worker with these figures is to be replaced; None if it is within the limits."""
        if self.messages and messages >= self.messages:
            return f"it has handled {messages} messages (limit {self.messages})"
        if self.age_s and age_s >= self.age_s:
            return f"it is {age_s:.0f} s old (limit {self.age_s:.0f} s)"
        if self.rss_bytes and rss_bytes >= self.rss_bytes:
            return f"it uses {rss_bytes >> 20} MiB of memory (limit {self.rss_bytes >> 20} MiB)"
        return None
