"""The command python -m benchmarks."""

import sys

from loadtests.optional_packages import MissingPackage, needs

try:
    with needs("sampler"):
        from benchmarks.cli import entry_point
except MissingPackage as error:
    sys.exit(f"benchmarks: {error}")

entry_point()
