"""`loadtests report RUN...`: reports on runs in the terminal, as Markdown, JSON or an HTML page, and as pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from loadtests.exit_status import EXIT_USAGE
from loadtests.report.json_report import render_json
from loadtests.report.markdown import render_markdown, render_markdown_of_all
from loadtests.report.terminal import shown_runs
from loadtests.results.hdr_logs import write_hdr_logs
from loadtests.results.store import Run, could_not_write, load_recording, load_run, write_whole

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Report on runs: in the terminal, as Markdown, JSON or an HTML page, and as pictures."
PAGE = "report.html"


@dataclass(frozen=True)
class ReportRequest:
    """The arguments of `loadtests report`.

    Attributes:
        html: the page to write; None: report.html in the folder of a single run.
        pictures: a folder for the pictures, if given; picture_format: "svg" or "png".
        hdr: a folder for the latencies as HdrHistogram logs, if given.
    """

    folders: tuple[Path, ...]
    form: Literal["terminal", "markdown", "json"]
    html: Path | None
    pictures: Path | None
    picture_format: str
    hdr: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests report`."""
    parser.description = DESCRIPTION
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--markdown", action="store_true", help="print Markdown, and write no files by default")
    text.add_argument("--json", action="store_true", help="print JSON, and write no files by default")
    parser.add_argument(
        "--html", type=Path, metavar="FILE",
        help=f"write the page to this file (default: {PAGE} in the folder of a single run)",
    )  # fmt: skip
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write each picture to a file in this folder")
    parser.add_argument(
        "--format", choices=("svg", "png"), default="svg", help="file format of the pictures (default svg)"
    )
    parser.add_argument(
        "--hdr", type=Path, metavar="DIR", help="write the latencies as HdrHistogram interval logs to this folder"
    )


def main(arguments: argparse.Namespace) -> int:
    """Report on the runs; ResultError names a folder that is no run.

    Status 2 if a file could not be written: a line names it.
    """
    return _run(
        ReportRequest(
            folders=tuple(arguments.runs),
            form="markdown" if arguments.markdown else "json" if arguments.json else "terminal",
            html=arguments.html,
            pictures=arguments.pictures,
            picture_format=arguments.format,
            hdr=arguments.hdr,
        )
    )


def _run(request: ReportRequest) -> int:
    runs = [load_run(folder) for folder in request.folders]
    if request.form == "markdown":
        print(render_markdown_of_all(runs), end="")
    elif request.form == "json":
        print(render_json(runs))
    else:
        Console(highlight=False).print(shown_runs(runs))
    lost = [could_not_write(write) for write in _writes(runs, request)]
    return EXIT_USAGE if any(lost) else 0


def _writes(runs: Sequence[Run], request: ReportRequest) -> Iterator[Callable[[], object]]:
    """A function for each file or folder to write. The report of a single run is kept in its folder."""
    page, pictures, hdr = request.html, request.pictures, request.hdr
    if len(runs) == 1 and request.form == "terminal":
        yield lambda: write_whole(runs[0].path / "report.md", render_markdown(runs[0]))
        page = page or runs[0].path / PAGE
    if page:
        yield lambda: _write_page(request.folders, page)
    if pictures:
        yield lambda: _write_pictures(request.folders, pictures, request.picture_format)
    if hdr:
        yield lambda: _write_hdr_logs(request.folders, hdr)


def _write_hdr_logs(folders: Sequence[Path], to: Path) -> None:
    """Write the logs of a single run into `to`, those of several runs into a folder for each below it."""
    for folder, name in zip(folders, _names(folders), strict=True):
        write_hdr_logs(load_recording(folder / "client.json"), to / name if len(folders) > 1 else to)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last name of each folder; further ones of the same name end in -2, -3, so that no file is overwritten."""
    names: list[str] = []
    for folder in folders:
        name, number = folder.resolve().name, 2
        while name in names:
            name, number = f"{folder.resolve().name}-{number}", number + 1
        names.append(name)
    return names


# The modules that draw take a second to import, so they are imported only when something is drawn.


def _write_page(folders: Sequence[Path], path: Path) -> None:
    from loadtests.report.html_page import render_runs_html
    from loadtests.report.run_data import load_evidence

    write_whole(path, render_runs_html([load_evidence(folder) for folder in folders]))
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"\n  page  {path}")


def _write_pictures(folders: Sequence[Path], destination: Path, picture_format: str) -> None:
    from loadtests.report.charts.picture import save_pictures
    from loadtests.report.charts.run_charts import run_pictures
    from loadtests.report.run_data import load_evidence

    for folder, name in zip(folders, _names(folders), strict=True):
        prefix = f"{name}-" if len(folders) > 1 else ""
        save_pictures(run_pictures(load_evidence(folder)), destination, picture_format, prefix)
