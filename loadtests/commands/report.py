"""`loadtests report RUN...`: on the terminal, in Markdown, as JSON, as one HTML file, and as pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from loadtests.report.json_report import render_json
from loadtests.report.markdown import render_markdown, render_markdown_of_all
from loadtests.report.terminal import shown_runs
from loadtests.results.hdr_logs import write_hdr_logs
from loadtests.results.store import Run, could_not_write, load_recording, load_run, write_whole

__all__ = ["add_arguments", "main"]

PAGE = "report.html"
EXIT_NOT_WRITTEN = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--markdown", action="store_true", help="print Markdown, and write nothing")
    text.add_argument("--json", action="store_true", help="print JSON, and write nothing")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help=f"where the page goes (default: {PAGE} in the folder of a single run)"
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also write each picture to a file there")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of those pictures (default svg)")
    parser.add_argument("--hdr", type=Path, metavar="DIR", help="also write the latencies there as HdrHistogram logs")


def main(arguments: argparse.Namespace) -> int:
    """Report on the runs; ResultError says in one line which of the folders is none.

    Status 2 if a file could not be written: a line names it.
    """
    runs = [load_run(folder) for folder in arguments.runs]
    if arguments.markdown:
        print(render_markdown_of_all(runs), end="")
    elif arguments.json:
        print(render_json(runs))
    else:
        Console(highlight=False).print(shown_runs(runs))
    lost = [could_not_write(write) for write in _writes(runs, arguments)]
    return EXIT_NOT_WRITTEN if any(lost) else 0


def _writes(runs: Sequence[Run], arguments: argparse.Namespace) -> Iterator[Callable[[], object]]:
    """What writes files; a single run's report is kept in its folder."""
    page, to = arguments.html, arguments.pictures
    if len(runs) == 1 and not (arguments.markdown or arguments.json):
        yield lambda: write_whole(runs[0].path / "report.md", render_markdown(runs[0]))
        page = page or runs[0].path / PAGE
    if page:
        yield lambda: _write_page(arguments.runs, page)
    if to:
        yield lambda: _write_pictures(arguments.runs, to, arguments.format)
    if hdr := arguments.hdr:
        yield lambda: _write_hdr_logs(arguments.runs, hdr)


def _write_hdr_logs(folders: Sequence[Path], to: Path) -> None:
    """Write the logs of a single run into `to`, those of several runs into a folder for each below it."""
    for folder in folders:
        recording = load_recording(folder / "client.json")
        write_hdr_logs(recording, to / folder.resolve().name if len(folders) > 1 else to)


# What draws takes a second to import: only where something is drawn.


def _write_page(folders: Sequence[Path], path: Path) -> None:
    from loadtests.report.html_page import render_runs_html
    from loadtests.report.run_data import load_evidence

    write_whole(path, render_runs_html([load_evidence(folder) for folder in folders]))
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"\n  page  {path}")


def _write_pictures(folders: Sequence[Path], to: Path, form: str) -> None:
    from loadtests.report.charts.picture import save_pictures
    from loadtests.report.charts.run_charts import run_pictures
    from loadtests.report.run_data import load_evidence

    for folder in folders:
        prefix = f"{folder.resolve().name}-" if len(folders) > 1 else ""
        save_pictures(run_pictures(load_evidence(folder)), to, form, prefix)
