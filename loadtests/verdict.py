"""Whether a run can be believed: the verdict, and the figures that say so. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["VALID", "State", "Verdict"]

State = Literal["valid", "generator-bound", "noisy-host", "unreconciled", "incomplete"]
VALID: State = "valid"


@dataclass(frozen=True)
class Verdict:
    """What is thought of a run, and why: a sentence for each reason, with the figure in it; none if it is valid."""

    state: State
    reasons: list[str] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return self.state == VALID
