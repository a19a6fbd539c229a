"""Errors that end a command with one line, where the module that raises them imports more than the command line may."""

from __future__ import annotations

__all__ = ["ResultError"]


class ResultError(Exception):
    """A folder that cannot be used as a run; the text is one line for a person."""
