"""loadtests compare: finds the runs of both sides, and ends with what a pipeline can act on.

    loadtests compare A B                       two folders, each of one run or of many
    loadtests compare --a RUN... --b RUN...     two lists of runs
    loadtests compare FOLDER                    what `loadtests ab` left: pairs
    loadtests compare FOLDER FOLDER...          several of those: a line for each

`ab` leaves ab.json beside its runs: {"pairs": [["run of A", "run of B"], ...], "order": ["ab", "ba", ...], "seed": 1,
"a": "title", "b": "title", "max_pairs": 20, "looks": 3}. With the last two the pairs were looked at while they were
made, and what may be believed is what that look may spend.

Exit status: 0 nothing worse, 1 worse, 2 wrong usage, or something could not be read or written, 3 cannot tell.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loadtests.results.store import ResultError, Run, could_not_write, load_recording, load_run, write_whole
from loadtests.text_encoding import as_text

if TYPE_CHECKING:
    from loadtests.comparison.compare import Latencies, Plan
    from loadtests.comparison.model import Comparison, Side

__all__ = [
    "AB_FILE",
    "Pairs",
    "add_arguments",
    "add_output_arguments",
    "exit_status",
    "load_pairs",
    "main",
    "show_pairs",
]

AB_FILE = "ab.json"
NO_NOISE = "it is for one run against one; pairs show their own noise"
EXIT_WORSE = 1
EXIT_USAGE = 2
EXIT_CANNOT_TELL = 3


@dataclass(frozen=True)
class Pairs:
    """ab.json: which runs (folders beside it) were made as pairs, and when they were looked at."""

    pairs: list[tuple[str, str]]
    order: list[str] = field(default_factory=list)
    seed: int | None = None
    a: str = "A"
    b: str = "B"
    max_pairs: int | None = None
    looks: int = 1
    why: str = ""  # there are not all of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests compare`."""
    parser.add_argument(
        "sides",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="A and B: each a run, or a folder of runs; or what `ab` left, one folder or several",
    )
    parser.add_argument("--a", nargs="+", type=Path, default=[], metavar="RUN", help="the runs of A")
    parser.add_argument("--b", nargs="+", type=Path, default=[], metavar="RUN", help="the runs of B, set against A's")
    parser.add_argument(
        "--noise", type=Path, metavar="FILE", help="noise floor, for one run against one (default: what `ab --aa` kept)"
    )
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """How it is judged and shown, whoever made the runs."""
    parser.add_argument("--force", action="store_true", help="compare what is not comparable")
    parser.add_argument("--band", type=_percent, default=0.03, metavar="P%", help="what does not matter (default 3%%)")
    parser.add_argument(
        "--fail-on", choices=("worse", "inconclusive", "never"), default="worse", help="(default worse)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write it as a page, with pictures")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also write each of those to a file there")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of those files (default svg)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="for a pull request's comment")
    output.add_argument("--json", action="store_true", help="everything, for programs")


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
    folders = arguments.sides
    are_all_pairs = len(folders) > 1 and all((folder / AB_FILE).exists() for folder in folders)
    try:
        comparisons = _each_paired(arguments) if are_all_pairs else [comparison_of(arguments)]
    except (ResultError, ValueError, OSError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return EXIT_USAGE
    refusals = [refusal for comparison in comparisons for refusal in comparison.refusals]
    if refusals and not arguments.force:
        for refusal in refusals:
            print(f"loadtests: {refusal}", file=sys.stderr)
        print("loadtests: not compared; --force compares all the same", file=sys.stderr)
        return EXIT_CANNOT_TELL
    if are_all_pairs:
        sys.stdout.write(_overview(comparisons, arguments))
        if arguments.html:
            _write_overview(comparisons, arguments.html)
        if arguments.pictures:
            for place, (folder, comparison) in enumerate(zip(folders, comparisons, strict=True), start=1):
                prefix = f"{place}-{folder.resolve().name}-"
                _write_pictures(comparison, arguments.pictures, arguments.format, prefix)
        return _worst(exit_status(comparison, arguments.fail_on) for comparison in comparisons)
    (comparison,) = comparisons
    sys.stdout.write(_rendered(comparison, arguments))
    is_lost = bool(arguments.html) and could_not_write(lambda: _write_page(comparison, arguments.html))
    if arguments.pictures:
        to, form = arguments.pictures, arguments.format
        is_lost |= could_not_write(lambda: _write_pictures(comparison, to, form))
    return EXIT_USAGE if is_lost else exit_status(comparison, arguments.fail_on)


def show_pairs(folder: Path, arguments: argparse.Namespace) -> int:
    """The same for the pairs in a folder, with the arguments of add_output_arguments()."""
    values = {"sides": [folder], "a": [], "b": [], "noise": None}
    return main(argparse.Namespace(**{**vars(arguments), **values}))


def exit_status(comparison: Comparison, fail_on: str) -> int:
    """What a pipeline gets. That there were no errors on either side is not yet something told."""
    answers = {figure.answer for figure in comparison.headlines}
    told = {figure.answer for figure in comparison.headlines if not figure.same}
    if fail_on == "never":
        return 0
    if "worse" in answers:
        return EXIT_WORSE
    if told <= {"inconclusive"} or (fail_on == "inconclusive" and "inconclusive" in answers):
        return EXIT_CANNOT_TELL
    return 0


def _worst(statuses: Iterable[int]) -> int:
    """Of several comparisons: one that is worse is worse than one that cannot tell."""
    return max(statuses, key=(0, EXIT_CANNOT_TELL, EXIT_WORSE).index)


def _write_page(comparison: Comparison, path: Path) -> None:
    from loadtests.report.comparison_page import render_comparison_html

    write_whole(path, render_comparison_html(comparison))


def _write_overview(comparisons: Sequence[Comparison], path: Path) -> None:
    from loadtests.report.comparison_page import render_overview_html

    write_whole(path, render_overview_html(comparisons))


def _write_pictures(comparison: Comparison, to: Path, form: str, prefix: str = "") -> None:
    from loadtests.report.charts.picture import save_pictures
    from loadtests.report.comparison_page import pictures_of

    save_pictures(pictures_of(comparison), to, form, prefix)


def _rendered(comparison: Comparison, arguments: argparse.Namespace) -> str:
    from loadtests.report.comparison_text import render_json, render_markdown, render_terminal

    if arguments.json:
        return render_json(comparison)
    if arguments.markdown:
        return render_markdown(comparison)
    return render_terminal(comparison, shutil.get_terminal_size((100, 24)).columns, sys.stdout.isatty())


def _overview(comparisons: Sequence[Comparison], arguments: argparse.Namespace) -> str:
    from loadtests.report.comparison_overview import render_overview, render_overview_markdown
    from loadtests.report.comparison_text import render_json

    if arguments.json:
        return f"[{','.join(map(render_json, comparisons))}]\n"
    if arguments.markdown:
        return render_overview_markdown(comparisons)
    return render_overview(comparisons, shutil.get_terminal_size((100, 24)).columns, sys.stdout.isatty())


# Finding the runs


def comparison_of(arguments: argparse.Namespace) -> Comparison:
    """What the arguments ask for. SciPy takes a second to import: other commands do without it."""
    from loadtests.comparison.compare import compare

    a, b, plan = _sides(arguments)
    return compare(a, b, plan, _latencies(a), _latencies(b))


def _each_paired(arguments: argparse.Namespace) -> list[Comparison]:
    from loadtests.comparison.compare import compare

    if arguments.noise:
        raise ValueError(f"--noise {arguments.noise}: {NO_NOISE}")
    return [compare(*_paired(folder, arguments.band)) for folder in arguments.sides]


def _sides(arguments: argparse.Namespace) -> tuple[Side, Side, Plan]:
    from loadtests.comparison.compare import Plan
    from loadtests.comparison.noise_floor import load_noise, stored_noise

    sides, lists = arguments.sides, (arguments.a, arguments.b)
    noise = load_noise(arguments.noise) if arguments.noise else None
    if len(sides) == 1 and not any(lists):
        if noise:
            raise ValueError(f"--noise {arguments.noise}: {NO_NOISE}")
        return _paired(sides[0], arguments.band)
    if not (len(sides) == 2 and not any(lists)) and not (not sides and all(lists)):
        raise ValueError("give two folders, or --a RUN... and --b RUN..., or the one folder of `loadtests ab`")
    a, b = (_side([folder]) for folder in sides) if sides else (_side(each) for each in lists)
    if noise and not len(a.runs) == len(b.runs) == 1:
        raise ValueError(
            f"--noise {arguments.noise}: it is for one run against one, not {len(a.runs)} against {len(b.runs)}"
        )
    if noise and (objections := noise.objections_to(a.runs[0])):
        raise ValueError(objections[0])
    if noise is None and len(a.runs) == len(b.runs) == 1:
        noise = stored_noise(a.runs[0])
    return a, b, Plan(band=arguments.band, noise=noise)


def _paired(folder: Path, band: float) -> tuple[Side, Side, Plan]:
    from loadtests.comparison.compare import plan_of_pairs
    from loadtests.comparison.model import Side
    from loadtests.inference.rank_tests import Looks

    made = load_pairs(folder)
    a, b = (tuple(load_run(folder / pair[place]) for pair in made.pairs) for place in (0, 1))
    looks = Looks(made.max_pairs or len(made.pairs), made.looks)
    plan = plan_of_pairs(a[0].workload, band, looks.alpha_at(len(made.pairs)), made.why)
    return Side(made.a, a), Side(made.b, b), plan


def load_pairs(folder: Path) -> Pairs:
    """The ab.json in `folder`; ResultError says in one line why there is none."""
    path = folder / AB_FILE
    if (folder / "run.json").exists():
        raise ResultError(f"{folder} is one run: there is nothing to compare it with")
    try:
        made = msgspec.json.decode(path.read_bytes(), type=Pairs)
    except FileNotFoundError:
        raise ResultError(f"{folder}: not the folder of an ab (there is no {AB_FILE})") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{path} cannot be read: {error}") from None
    if not made.pairs and made.why:
        raise ResultError(f"{folder}: no pair was made: {made.why}")
    if not made.pairs or not 1 <= made.looks <= (made.max_pairs or len(made.pairs)):
        raise ResultError(f"{path} is damaged: {len(made.pairs)} pairs, {made.looks} looks")
    return made


def _side(folders: list[Path]) -> Side:
    from loadtests.comparison.model import Side

    runs = [run for folder in folders for run in _runs(folder)]
    twice = {run.path.resolve() for run in runs}
    if len(twice) < len(runs):
        raise ResultError(f"{folders[0]} and others: the same run stands in a side more than once")
    return Side(_title(folders, runs), tuple(sorted(runs, key=lambda run: run.started_at)))


def _runs(folder: Path) -> list[Run]:
    """The run in a folder, or all runs that lie in it."""
    if (folder / AB_FILE).exists():
        raise ResultError(f"{folder} has the pairs of an ab, which are both sides: give it alone")
    if (folder / "run.json").exists() or not folder.is_dir():
        return [load_run(folder)]
    inside = sorted(path.parent for path in folder.glob("*/run.json"))
    return [load_run(path) for path in inside] if inside else [load_run(folder)]


def _title(folders: list[Path], runs: list[Run]) -> str:
    labels = {run.label for run in runs}
    if len(labels) == 1 and labels != {""}:
        return labels.pop()
    name = as_text(folders[0].name or str(folders[0]))
    return name if len(folders) == 1 else f"{name} and {len(folders) - 1} more"


def _latencies(side: Side) -> Latencies:
    """What the runs recorded in their steady seconds; a run that kept no recording has no curves."""
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
