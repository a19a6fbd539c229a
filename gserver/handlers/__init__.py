"""The built-in services, by the short names that the command line takes in place of a module path."""

from __future__ import annotations

__all__ = ["SHORT_NAMES", "echo", "json"]

from gserver.handlers.echo import echo
from gserver.handlers.json import json

SHORT_NAMES = {"echo": "gserver.handlers:echo", "json": "gserver.handlers:json"}
