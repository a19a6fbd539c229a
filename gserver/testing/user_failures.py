"""Collects the exceptions of a service's code in a test, and raises them at the end of the test.

gserver logs an exception of user code once, with its traceback, wherever it was raised: a handler, a hook, a task, the
codec, a greenlet that the application has started. So they are collected from the error log.
"""

from __future__ import annotations

import logging

from gevent import monkey

from gserver.user_errors import described

__all__ = ["UserFailures", "check_log_is_on"]

# The thread, and not the greenlet as in a patched process.
_get_thread = monkey.get_original("_thread", "get_ident")
_LOGGER = "gserver"


class UserFailures(logging.Handler):
    """The exceptions of user code that one thread logs, from watch() to close().

    Attributes:
        errors: the exceptions so far, in order. A test that expects one removes it from the list.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []
        self._texts: dict[int, str] = {}  # by id() of the exception: what has failed, for which connection
        self._thread: int | None = None

    def watch(self) -> None:
        """Collect from now on what the calling thread logs."""
        self._thread = _get_thread()
        logging.getLogger(_LOGGER).addHandler(self)

    def close(self) -> None:
        """Collect no more."""
        logging.getLogger(_LOGGER).removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _get_thread() == self._thread:
            self.errors.append(error)
            self._texts[id(error)] = record.getMessage()

    def finish(self, body: BaseException | None, others: list[str]) -> None:
        """End of the test: AssertionError if there are errors, with the first as its cause.

        Args:
            body: the exception that ends the test anyway: it gets the errors as notes, and nothing is raised.
            others: what has failed besides, in one line each.
        """
        __tracebackhide__ = True
        lines = [*map(self._line, self.errors), *others]
        if body is not None:
            for line in lines:
                body.add_note(f"beside it, in the server: {line}")
        elif lines:
            raise AssertionError("\n".join(lines)) from (self.errors[0] if self.errors else None)

    def _line(self, error: BaseException) -> str:
        what = self._texts.get(id(error))  # a test may have added one
        return described(error) if what is None else f"{what}: {described(error)}"


def check_log_is_on() -> None:
    """RuntimeError if the error log is off, so that no exception would be reported."""
    if not logging.getLogger(f"{_LOGGER}.turn").isEnabledFor(logging.ERROR):
        raise RuntimeError(
            f"the logger {_LOGGER!r} is off for ERROR: errors of handlers would not be reported; enable it, or pass "
            "raise_errors=False"
        )
