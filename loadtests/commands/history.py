"""loadtests history [DIR]: shows the runs below a folder as trends with change points; writes CSV for Apache Otava."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.exit_status import EXIT_USAGE
from loadtests.results.store import ResultError, Run, could_not_write, load_run, write_whole

if TYPE_CHECKING:  # SciPy takes a second to import: other commands do without it
    from loadtests.comparison.trends import Trend

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Show the runs below a folder as trends, with the points at which a figure changed."


@dataclass(frozen=True)
class HistoryRequest:
    """The arguments of `loadtests history`: the folder of the runs, and a CSV file to write, if given."""

    folder: Path
    csv: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests history`."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("results"), metavar="DIR",
        help="folder with runs, at any depth (default results)",
    )  # fmt: skip
    parser.add_argument(
        "--csv", type=Path, metavar="FILE",
        help="write the trend as CSV, several trends to a file each, and a configuration for Apache Otava",
    )  # fmt: skip


def main(arguments: argparse.Namespace) -> int:
    """Print the trends, write the CSV files if requested, and return the exit status."""
    return _run(HistoryRequest(arguments.folder, arguments.csv))


def _run(request: HistoryRequest) -> int:
    from loadtests.comparison.trends import render_trend, trends_of

    runs = _runs(request.folder)
    if not runs:
        raise ResultError(f"{request.folder}: there is no run in it that can be read")
    trends, invalid = trends_of(runs)
    print("\n\n".join(render_trend(trend) for trend in trends))
    if invalid:
        print(f"\nLeft out because they are not valid: {len(invalid)} of {len(runs)} runs.")
    path = request.csv
    if path is not None and could_not_write(lambda: _write_csv(trends, path)):
        return EXIT_USAGE
    return 0


def _runs(folder: Path) -> list[Run]:
    """All readable runs at any depth below `folder`; a line is printed for each unreadable one."""
    found = []
    for path in sorted(folder.rglob("run.json")):
        try:
            found.append(load_run(path.parent))
        except ResultError as error:
            print(f"loadtests: {error}", file=sys.stderr)
    return found


def _write_csv(trends: Sequence[Trend], path: Path) -> None:
    """Write the CSV files, then Otava's configuration, which names all of them; stop at the first error."""
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
