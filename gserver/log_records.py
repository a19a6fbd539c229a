"""Log records about one connection: the message names it by its address and its id, and the record has both as fields.

The id is in the access log too. So a search for it finds all lines about a connection, in both logs and in all formats.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

__all__ = ["Identified", "fields_of", "log_about", "title_of"]


class Identified(Protocol):
    """A connection; str() of it is the address of its peer."""

    @property
    def id(self) -> str: ...


def log_about(
    conn: Identified, logger: logging.Logger, level: int, text: str, *, exc_info: Any = None, **values: Any
) -> None:
    """Log a line about a connection. If `level` is not logged, this costs a comparison.

    Args:
        conn: the connection.
        logger, level, exc_info: as in Logger.log().
        text: the message, with %(conn)s for the connection, and %(name)s for each of `values`.
    """
    if logger.isEnabledFor(level):
        arguments = {"conn": title_of(conn), **values}
        logger.log(level, text, arguments, exc_info=exc_info, extra=fields_of(conn), stacklevel=2)


def title_of(conn: Identified) -> str:
    """Return the text that names a connection within a line, such as 192.0.2.7:40312 (4712-1893)."""
    return f"{conn} ({conn.id})"


def fields_of(conn: Identified) -> dict[str, str]:
    """Return the fields of a record about a connection, for `extra`."""
    return {"connection": conn.id, "peer": str(conn)}
