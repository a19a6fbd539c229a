"""Decides whether a reload may keep the running workers: only live settings have changed, and no code.

The workers compare the files of their modules, because only they know what they have imported. Nothing waits for a
worker: one that does not answer in time is replaced with the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gserver.arbiter.supervision import Stage, Supervision
from gserver.arbiter.worker_questions import Answer, WorkerQuestions

__all__ = ["LiveReload"]

# A worker runs user code, and may name anything.
MAX_PATH = 500

#: Called with None if the workers may go on, else with the reason for new ones, in a few words.
Decided = Callable[[str | None], None]


class LiveReload:
    """One question at a time; a later one replaces an earlier one."""

    def __init__(self, questions: WorkerQuestions, supervision: Supervision) -> None:
        self._questions = questions
        self._supervision = supervision
        self._decided: Decided | None = None
        self._number = 0
        self._awaited: set[int] = set()

    @property
    def is_deciding(self) -> bool:
        return self._decided is not None

    def ask(self, decided: Decided) -> None:
        """Ask the workers whether their code has changed; `decided` is called once, unless cancel() comes first."""
        self._number += 1
        self._decided = decided
        workers = [child for child in self._supervision if child.stage is not Stage.DRAINING]
        starting = [child for child in workers if child.stage is Stage.BOOTING]
        if starting or not workers:
            self._decide("a worker is starting" if starting else "there is no worker")
            return
        self._awaited = {child.pid for child in workers}
        for pid in list(self._awaited):
            self._ask(pid, self._number)

    def cancel(self) -> None:
        self._decided = None

    def _ask(self, pid: int, number: int) -> None:
        def answered(answer: Answer) -> None:
            if number == self._number:
                self._answered(pid, answer)

        self._questions.ask_all_pages(pid, "changed files", {}, time.monotonic, answered)

    def _answered(self, pid: int, answer: Answer) -> None:
        self._awaited.discard(pid)
        if answer.problem is not None:
            self._decide(f"worker {pid}: {answer.problem}")
        elif answer.rows:
            self._decide(f"{str(answer.rows[0])[:MAX_PATH]} has changed")
        elif not self._awaited:
            self._decide(None)

    def _decide(self, reason: str | None) -> None:
        decided, self._decided = self._decided, None
        if decided is not None:
            decided(reason)
