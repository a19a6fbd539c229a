"""When a worker has served long enough. Pure: what it has used up goes in, a reason to be replaced comes out."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gserver.config.settings import Settings

__all__ = ["Wear"]


@dataclass(frozen=True)
class Wear:
    """The limits of one worker, each with its share of jitter already; 0: none."""

    messages: int
    age_s: float
    rss_bytes: int

    @classmethod
    def of(cls, settings: Settings, dice: random.Random) -> Wear:
        """Draw the limits: the jitter keeps workers that began together from ending together."""

        def drawn(limit: float, jitter: float) -> float:
            return limit + dice.uniform(0, jitter) if limit else 0

        return cls(
            int(drawn(settings.max_requests, settings.max_requests_jitter)),
            drawn(settings.worker_max_age, settings.worker_max_age_jitter),
            int(drawn(settings.worker_max_rss, settings.worker_max_rss_jitter)),
        )

    @property
    def minds_memory(self) -> bool:
        return self.rss_bytes > 0

    def reason(self, messages: int, age_s: float, rss_bytes: int) -> str | None:
        """Why a worker that has used so much should be replaced, or None."""
        if self.messages and messages >= self.messages:
            return f"it has handled {messages} messages, of {self.messages}"
        if self.age_s and age_s >= self.age_s:
            return f"it is {age_s:.0f} s old, of {self.age_s:.0f}"
        if self.rss_bytes and rss_bytes >= self.rss_bytes:
            return f"it uses {rss_bytes >> 20} MiB of memory, of {self.rss_bytes >> 20}"
        return None
