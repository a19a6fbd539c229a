"""python -m benchmarks."""

from benchmarks.cli import entry_point

entry_point()
