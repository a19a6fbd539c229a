"""A client of the control socket, as commands with rows see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gserver.control.protocol import Problem

__all__ = ["Client"]


class Client:
    """Reads a page of rows when the test says so."""

    def __init__(self) -> None:
        self.is_wanted = True
        self.listed: list[Any] = []
        self.answer: dict[str, Any] | None = None
        self.problem: Problem | None = None
        self._sent: Callable[[], None] | None = None
        self._gone: Callable[[], None] | None = None

    def rows(self, rows: Sequence[Any], sent: Callable[[], None]) -> None:
        assert rows
        assert self._sent is None, "one page at a time"
        self.listed += rows
        self._sent = sent

    @property
    def has_page(self) -> bool:
        return self._sent is not None

    def read(self) -> None:
        """Read one page."""
        sent, self._sent = self._sent, None
        assert sent is not None
        sent()

    def read_all(self) -> list[Any]:
        """Read all that comes now; return all rows so far."""
        while self.has_page:
            self.read()
        return self.listed

    def when_gone(self, gone: Callable[[], None]) -> None:
        self._gone = gone

    def go(self) -> None:
        self.is_wanted = False
        assert self._gone is not None
        self._gone()

    def result(self, /, **fields: Any) -> None:
        assert self.answer is None
        self.answer = fields

    def error(self, problem: Problem) -> None:
        self.problem = problem
