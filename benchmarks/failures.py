"""The error that ends a measurement without figures."""

from __future__ import annotations

__all__ = ["Failed"]


class Failed(Exception):
    """The server or the client failed; the text is one line for the user."""
