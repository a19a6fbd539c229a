"""python -m gserver: the same as the command `gserver`."""

from gserver.cli import entry_point

entry_point()
