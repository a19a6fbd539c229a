"""Errors that end a command with one line, where the module that raises them imports more than the command line may."""

from __future__ import annotations

__all__ = ["ResultError", "cause_of"]


class ResultError(Exception):
    """A folder that cannot be used as a run; the text is one line for a person."""


def cause_of(error: OSError) -> str:
    """What the system refused, for a person: the file, if there is one, and the reason."""
    if not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
