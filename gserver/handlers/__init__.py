"""The built-in services; the command line knows them by these names alone."""

from __future__ import annotations

from gserver.handlers.echo import echo
from gserver.handlers.json import json

__all__ = ["echo", "json"]
