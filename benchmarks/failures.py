"""The end of a measurement that came to nothing."""

from __future__ import annotations

__all__ = ["Failed"]


class Failed(Exception):
    """The server or the client gave up; the text is one line for a person."""
