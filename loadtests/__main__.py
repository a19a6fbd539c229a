"""python -m loadtests: the same as the command `loadtests`."""

from loadtests.cli import entry_point

entry_point()
