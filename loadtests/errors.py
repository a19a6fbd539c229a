"""An error that ends a command with one line. The command line imports it from here, without what raises it."""

from __future__ import annotations

__all__ = ["ResultError", "cause_of"]


class ResultError(Exception):
    """A folder cannot be used as a run; the text is one line for the user."""


def cause_of(error: OSError) -> str:
    """The text of an OSError for the user: the file, if there is one, and the reason."""
    if not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
