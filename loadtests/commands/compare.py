"""loadtests compare: compares the runs of two sides; its exit status is for a pipeline.

    loadtests compare A B                       two folders, each of one run or of several
    loadtests compare --a RUN... --b RUN...     two lists of runs
    loadtests compare FOLDER                    a folder of `loadtests ab`: pairs
    loadtests compare FOLDER FOLDER...          several of those: a line for each

`ab` leaves ab.json beside its runs (loadtests/comparison/ab_plan.py). Its `max_pairs` and `looks` say how often the
pairs were compared while they were made: each of those comparisons may use only a part of the error rate.

Exit status: 0 nothing is worse; 1 B is worse; 2 wrong usage, or a file cannot be read or written; 3 inconclusive.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loadtests.exit_status import EXIT_FAILURE, EXIT_INCONCLUSIVE, EXIT_USAGE
from loadtests.results.store import ResultError, Run, could_not_write, load_recording, load_run, write_whole
from loadtests.text_encoding import as_text

if TYPE_CHECKING:  # SciPy takes a second to import: other commands do without it
    from loadtests.comparison.compare import Latencies, Plan
    from loadtests.comparison.model import Comparison, Side

__all__ = ["OutputOptions", "add_arguments", "add_output_arguments", "main", "output_options", "show_pairs"]

DESCRIPTION = "Compare the runs of two sides, A and B: is B better, worse, or equivalent?"
NO_NOISE = "it is for one run against one; pairs show their own noise"
OutputForm = Literal["terminal", "markdown", "json"]


@dataclass(frozen=True)
class OutputOptions:
    """How a comparison is judged and shown.

    Attributes:
        force: compare also runs that are not comparable.
        band: relative difference that does not matter, between 0 and 1.
        fail_on: the verdict that fails: "worse", "inconclusive" (or worse), or "never".
        html, pictures: a file and a folder to write, if given; picture_format: "svg" or "png".
    """

    force: bool = False
    band: float = 0.03
    fail_on: str = "worse"
    html: Path | None = None
    pictures: Path | None = None
    picture_format: str = "svg"
    form: OutputForm = "terminal"


@dataclass(frozen=True)
class CompareRequest:
    """The arguments of `loadtests compare`.

    Attributes:
        folders: A's and B's folder, or folders of `loadtests ab`.
        a, b: lists of runs, instead of `folders`.
        noise: file of the noise floor, for one run against one.
    """

    folders: tuple[Path, ...]
    a: tuple[Path, ...] = ()
    b: tuple[Path, ...] = ()
    noise: Path | None = None
    output: OutputOptions = OutputOptions()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests compare`."""
    parser.usage, parser.description = "%(prog)s [options] FOLDER...", DESCRIPTION
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER",
        help="A and B: two folders, each of one run or of several; or one or more folders of `loadtests ab`",
    )  # fmt: skip
    parser.add_argument("--a", nargs="+", type=Path, default=[], metavar="RUN", help="the runs of A")
    parser.add_argument("--b", nargs="+", type=Path, default=[], metavar="RUN", help="the runs of B")
    parser.add_argument(
        "--noise", type=Path, metavar="FILE",
        help="the noise floor, for one run against one (default: the one that `loadtests ab --aa` kept)",
    )  # fmt: skip
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add two groups of options: the verdict, and the output."""
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument(
        "--force", action="store_true",
        help="compare runs even if they are not valid or not comparable; with ab, also do not wait for a quiet host",
    )  # fmt: skip
    verdict.add_argument(
        "--band", type=_percent, default=0.03, metavar="P%",
        help="differences smaller than this do not matter (default 3%%)",
    )  # fmt: skip
    verdict.add_argument(
        "--fail-on", choices=("worse", "inconclusive", "never"), default="worse",
        help="worse: fail if B is worse (default); inconclusive: also if any figure is; never: exit status 0",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown, for a comment on a pull request")
    form.add_argument("--json", action="store_true", help="print JSON, with all figures")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures to this file")
    output.add_argument("--pictures", type=Path, metavar="DIR", help="write each picture to a file in this folder")
    output.add_argument(
        "--format", choices=("svg", "png"), default="svg", help="file format of the pictures (default svg)"
    )


def output_options(arguments: argparse.Namespace) -> OutputOptions:
    """The parsed options of add_output_arguments()."""
    return OutputOptions(
        force=arguments.force,
        band=arguments.band,
        fail_on=arguments.fail_on,
        html=arguments.html,
        pictures=arguments.pictures,
        picture_format=arguments.format,
        form="json" if arguments.json else "markdown" if arguments.markdown else "terminal",
    )


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, must be a percentage above 0 and below 100, such as 3%")
    return value


def main(arguments: argparse.Namespace) -> int:
    """Compare, print, and return the exit status."""
    return _run(
        CompareRequest(
            folders=tuple(arguments.folders),
            a=tuple(arguments.a),
            b=tuple(arguments.b),
            noise=arguments.noise,
            output=output_options(arguments),
        )
    )


def show_pairs(folder: Path, output: OutputOptions) -> int:
    """Compare the pairs in a folder of `loadtests ab`, print, and return the exit status."""
    return _run(CompareRequest((folder,), output=output))


def _run(request: CompareRequest) -> int:
    from loadtests.comparison.ab_plan import AB_FILE

    output = request.output
    is_overview = len(request.folders) > 1 and all((folder / AB_FILE).exists() for folder in request.folders)
    try:
        comparisons = _comparisons_of_pairs(request) if is_overview else [_comparison(request)]
    except (ResultError, ValueError, OSError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return EXIT_USAGE
    refusals = [refusal for comparison in comparisons for refusal in comparison.refusals]
    if refusals and not output.force:
        for refusal in refusals:
            print(f"loadtests: {refusal}", file=sys.stderr)
        print("loadtests: not compared; --force compares all the same", file=sys.stderr)
        return EXIT_INCONCLUSIVE
    if is_overview:
        return _show_overview(comparisons, request)
    (comparison,) = comparisons
    sys.stdout.write(_rendered(comparison, output.form))
    is_lost = False
    if page := output.html:
        is_lost |= could_not_write(lambda: _write_page(comparison, page))
    if pictures := output.pictures:
        is_lost |= could_not_write(lambda: _write_pictures(comparison, pictures, output.picture_format))
    return EXIT_USAGE if is_lost else _exit_status(comparison, output.fail_on)


def _show_overview(comparisons: Sequence[Comparison], request: CompareRequest) -> int:
    output = request.output
    sys.stdout.write(_rendered_overview(comparisons, output.form))
    if output.html:
        _write_overview(comparisons, output.html)
    if output.pictures:
        for place, (folder, comparison) in enumerate(zip(request.folders, comparisons, strict=True), start=1):
            prefix = f"{place}-{folder.resolve().name}-"
            _write_pictures(comparison, output.pictures, output.picture_format, prefix)
    return _worst(_exit_status(comparison, output.fail_on) for comparison in comparisons)


def _exit_status(comparison: Comparison, fail_on: str) -> int:
    """The exit status. A figure that is the same on both sides, as no errors are, is not a result by itself."""
    answers = {figure.answer for figure in comparison.headlines}
    results = {figure.answer for figure in comparison.headlines if not figure.same}
    if fail_on == "never":
        return 0
    if "worse" in answers:
        return EXIT_FAILURE
    if results <= {"inconclusive"} or (fail_on == "inconclusive" and "inconclusive" in answers):
        return EXIT_INCONCLUSIVE
    return 0


def _worst(statuses: Iterable[int]) -> int:
    """The status of several comparisons: "worse" counts more than "inconclusive"."""
    return max(statuses, key=(0, EXIT_INCONCLUSIVE, EXIT_FAILURE).index)


def _write_page(comparison: Comparison, path: Path) -> None:
    from loadtests.report.comparison_page import render_comparison_html

    write_whole(path, render_comparison_html(comparison))


def _write_overview(comparisons: Sequence[Comparison], path: Path) -> None:
    from loadtests.report.comparison_page import render_overview_html

    write_whole(path, render_overview_html(comparisons))


def _write_pictures(comparison: Comparison, folder: Path, picture_format: str, prefix: str = "") -> None:
    from loadtests.report.charts.picture import save_pictures
    from loadtests.report.comparison_page import pictures_of

    save_pictures(pictures_of(comparison), folder, picture_format, prefix)


def _rendered(comparison: Comparison, form: OutputForm) -> str:
    from loadtests.report.comparison_text import render_json, render_markdown, render_terminal

    if form == "json":
        return render_json(comparison)
    if form == "markdown":
        return render_markdown(comparison)
    return render_terminal(comparison, shutil.get_terminal_size((100, 24)).columns, sys.stdout.isatty())


def _rendered_overview(comparisons: Sequence[Comparison], form: OutputForm) -> str:
    from loadtests.report.comparison_overview import render_overview, render_overview_markdown
    from loadtests.report.comparison_text import render_json

    if form == "json":
        return f"[{','.join(map(render_json, comparisons))}]\n"
    if form == "markdown":
        return render_overview_markdown(comparisons)
    return render_overview(comparisons, shutil.get_terminal_size((100, 24)).columns, sys.stdout.isatty())


# Finding the runs


def _comparison(request: CompareRequest) -> Comparison:
    from loadtests.comparison.compare import compare

    a, b, plan = _sides(request)
    return compare(a, b, plan, _latencies(a), _latencies(b))


def _comparisons_of_pairs(request: CompareRequest) -> list[Comparison]:
    from loadtests.comparison.compare import compare

    if request.noise:
        raise ValueError(f"--noise {request.noise}: {NO_NOISE}")
    return [compare(*_paired(folder, request.output.band)) for folder in request.folders]


def _sides(request: CompareRequest) -> tuple[Side, Side, Plan]:
    from loadtests.comparison.compare import Plan
    from loadtests.comparison.noise_floor import load_noise, stored_noise

    folders, lists, band = request.folders, (request.a, request.b), request.output.band
    noise = load_noise(request.noise) if request.noise else None
    if len(folders) == 1 and not any(lists):
        if noise:
            raise ValueError(f"--noise {request.noise}: {NO_NOISE}")
        return _paired(folders[0], band)
    if not (len(folders) == 2 and not any(lists)) and not (not folders and all(lists)):
        raise ValueError("give two folders, or --a RUN... and --b RUN..., or the one folder of `loadtests ab`")
    a, b = (_side([folder]) for folder in folders) if folders else (_side(each) for each in lists)
    if noise and not len(a.runs) == len(b.runs) == 1:
        raise ValueError(
            f"--noise {request.noise}: it is for one run against one, not {len(a.runs)} against {len(b.runs)}"
        )
    if noise and (objections := noise.objections_to(a.runs[0])):
        raise ValueError(objections[0])
    if noise is None and len(a.runs) == len(b.runs) == 1:
        noise = stored_noise(a.runs[0])
    return a, b, Plan(band=band, noise=noise)


def _paired(folder: Path, band: float) -> tuple[Side, Side, Plan]:
    from loadtests.comparison.ab_plan import load_record
    from loadtests.comparison.compare import plan_of_pairs
    from loadtests.comparison.model import Side
    from loadtests.inference.rank_tests import Looks

    record = load_record(folder)
    a, b = (tuple(load_run(folder / pair[place]) for pair in record.pairs) for place in (0, 1))
    looks = Looks(record.planned_pairs, record.looks)
    plan = plan_of_pairs(a[0].workload, band, looks, len(record.pairs), record.why)
    return Side(record.a, a), Side(record.b, b), plan


def _side(folders: Sequence[Path]) -> Side:
    from loadtests.comparison.model import Side

    runs = [run for folder in folders for run in _runs(folder)]
    paths = {run.path.resolve() for run in runs}
    if len(paths) < len(runs):
        raise ResultError(f"{folders[0]} and others: a side has the same run more than once")
    return Side(_title(folders, runs), tuple(sorted(runs, key=lambda run: run.started_at)))


def _runs(folder: Path) -> list[Run]:
    """The run in a folder, or all runs in its subfolders."""
    from loadtests.comparison.ab_plan import AB_FILE

    if (folder / AB_FILE).exists():
        raise ResultError(f"{folder} has pairs of `loadtests ab`, which are both sides: give no other side")
    if (folder / "run.json").exists() or not folder.is_dir():
        return [load_run(folder)]
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    return [load_run(path) for path in inside] if inside else [load_run(folder)]


def _title(folders: Sequence[Path], runs: Sequence[Run]) -> str:
    labels = {run.label for run in runs}
    if len(labels) == 1 and labels != {""}:
        return labels.pop()
    name = as_text(folders[0].name or str(folders[0]))
    return name if len(folders) == 1 else f"{name} and {len(folders) - 1} more"


def _latencies(side: Side) -> Latencies:
    """The latencies of the measure phase of all runs; empty if one of them has no recording."""
    from loadtests.comparison.compare import Latencies

    found = Latencies()
    for run in side.runs:
        if not (run.path / "client.json").exists():
            return Latencies()
        recording = load_recording(run.path / "client.json")
        start, end = run.phases.get("measure", [0, 0])
        cell = recording.total(recording.exchange_series(), start, end)
        found.service.append(cell.service.all)
        found.response.append(cell.response.all)
    return found
