"""loadtests history [DIR]: the runs below a folder as trends, with what changed; as CSV that Apache Otava reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.results.store import ResultError, Run, could_not_write, load_run, write_whole

if TYPE_CHECKING:  # SciPy takes a second to import: other commands do without it
    from loadtests.comparison.trends import Trend

__all__ = ["add_arguments", "main"]

EXIT_NOT_WRITTEN = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests history`."""
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("results"), metavar="DIR", help="(default results)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the trend; of several, FILE-TREND for each; and FILE.otava.yaml"
    )


def main(arguments: argparse.Namespace) -> int:
    """Print the trends, write what was asked for, and return the exit status."""
    from loadtests.comparison.trends import render_trend, trends_of

    runs = _runs(arguments.folder)
    if not runs:
        raise ResultError(f"{arguments.folder}: there is no run in it that can be read")
    trends, invalid = trends_of(runs)
    print("\n\n".join(render_trend(trend) for trend in trends))
    if invalid:
        print(f"\nLeft out, for they are not valid: {len(invalid)} of {len(runs)} runs.")
    if arguments.csv and could_not_write(lambda: _write_csv(trends, arguments.csv)):
        return EXIT_NOT_WRITTEN
    return 0


def _runs(folder: Path) -> list[Run]:
    """All that can be read, wherever they lie below `folder`; a line for each that cannot."""
    found = []
    for path in sorted(folder.rglob("run.json")):
        try:
            found.append(load_run(path.parent))
        except ResultError as error:
            print(f"loadtests: {error}", file=sys.stderr)
    return found


def _write_csv(trends: Sequence[Trend], path: Path) -> None:
    """All files, or those up to the first that cannot be written: Otava's names all others, so it comes last."""
    from loadtests.comparison.trends import render_csv, render_otava

    one = len(trends) == 1
    files = [
        (trend, path if one else path.with_name(f"{path.stem}-{place}-{trend.key}{path.suffix}"))
        for place, trend in enumerate(trends, 1)
    ]
    for trend, file in files:
        write_whole(file, render_csv(trend))
        print(f"loadtests: wrote {file}", file=sys.stderr)
    write_whole(path.with_suffix(".otava.yaml"), render_otava([(trend, str(file)) for trend, file in files]))
