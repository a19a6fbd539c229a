"""The built-in services: the command line accepts these names without a module."""

from __future__ import annotations

from gserver.handlers.echo import echo
from gserver.handlers.json import json

__all__ = ["echo", "json"]
