"""How the log looks: one line an event on standard error, with time, process and level, as gunicorn writes it."""

from __future__ import annotations

import logging
import sys

__all__ = ["configure"]

_FORMAT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s"
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S %z"


def configure(level: str) -> None:
    """Send what `gserver` logs at `level` and above to standard error. Loggers of other packages are left alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME_FORMAT))
    log = logging.getLogger("gserver")
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(level.upper())
