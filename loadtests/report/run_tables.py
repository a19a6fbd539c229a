"""The tables of a run for all outputs: latencies, message types, figures, and the environment. Pure.

A figure that the run withholds keeps its place: its cell is WITHHELD, and a note under the table has the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.formatting import quantity
from loadtests.recording.recording import PHASES
from loadtests.report.summary import UNKNOWN, WITHHELD, as_sentence, shown
from loadtests.results.figure_catalog import latency_title, title_of
from loadtests.results.metrics import ENOUGH_BEYOND, STATISTICS, Figure
from loadtests.results.store import Run

__all__ = ["Table", "figures_of", "keys_of", "latencies_of", "types_of"]

KINDS = ("response", "service")
ALL = "all types"
OF_FEW = (
    f'"- of 3" stands for a percentile of only 3 values. It is shown if at least {ENOUGH_BEYOND} values lie beyond it.'
)


@dataclass(frozen=True)
class Table:
    """A table with cells of text; `notes` are sentences to show below it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def latencies_of(run: Run) -> Table:
    """A row for each phase of a connection, and two for all exchanges and for each type: latency and service time."""
    return _with_statistics(run, ("",), {name: (_row_title(name),) for name in _timed(run)})


def types_of(run: Run) -> Table:
    """A row for each message type: answered and failed exchanges of the measured phase, and their latency.

    If the run has no latency (no schedule), it is their service time. All types together come first.
    """
    types, kind = _types(run), _kind(run)
    counts = {each: (run.figure(f"answered_{each}"), run.figure(f"failed_{each}")) for each in types}
    header: tuple[str, ...] = (latency_title(kind) if kind else "",)
    rows = {f"{kind}_{each}": (each, *(quantity(count.value, "") for count in counts[each] if count)) for each in types}
    if all(answered and failed for answered, failed in counts.values()):
        header += ("answered", "failed")
        sums = (sum(figure.value for figure in column if figure) for column in zip(*counts.values(), strict=True))
        everything = (ALL, *(quantity(value, "") for value in sums))
    else:  # a run of an older version, which did not count them
        rows = {name: cells[:1] for name, cells in rows.items()}
        everything = (ALL,)
    return _with_statistics(run, header, {kind: everything, **rows} if len(types) > 1 else rows)


def figures_of(run: Run) -> Table:
    """Every figure that is in no other table, with its interval."""
    elsewhere = {f"{name}_{each}" for name in _timed(run) for each in STATISTICS}
    elsewhere |= {f"{what}_{each}" for what in ("answered", "failed") for each in _types(run)}
    if (
        run.schema < 3
    ):  # it has no number of attempts in the measured phase; the summary has the counts of the whole run
        elsewhere.add("error_rate")
    rows = [(title_of(each.name), _shown(each), _interval(each)) for each in run.figures if each.name not in elsewhere]
    withheld = [name for name in run.withheld if name not in elsewhere and not run.figure(name)]
    rows += [(title_of(name), WITHHELD, "") for name in withheld]
    return Table(("figure", "value", "95% interval"), tuple(rows), _notes(run, withheld))


def keys_of(run: Run) -> tuple[tuple[str, Table], ...]:
    """Workload, server and environment, as titled tables."""
    titled: dict[str, Mapping[str, Any]] = {
        "Workload": {**run.workload, "hash": run.workload_hash},
        "Server": run.server,
        "Environment": run.environment,
    }
    return tuple(
        (title, Table(("", "value"), tuple((key, str(value)) for key, value in values.items())))
        for title, values in titled.items()
        if values
    )


# Latencies


def _with_statistics(run: Run, header: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> Table:
    """The rows by the name of their latency, with a column for each statistic that at least one of them has."""
    columns = [
        each
        for each in STATISTICS
        if any(run.figure(f"{name}_{each}") or f"{name}_{each}" in run.withheld for name in rows)
    ]
    names = [f"{name}_{each}" for name in rows for each in columns]
    withheld = [name for name in names if _is_withheld(run, name)]
    cells = {name: [_cell(run, f"{name}_{each}") for each in columns] for name in rows}
    few = any(figure.is_of_few for name in names if (figure := run.figure(name)))
    notes = (*_notes(run, withheld), *([OF_FEW] if few else []))
    return Table((*header, *columns), tuple((*first, *cells[name]) for name, first in rows.items()), notes)


def _cell(run: Run, name: str) -> str:
    return WITHHELD if _is_withheld(run, name) else _shown(run.figure(name)) or UNKNOWN


def _is_withheld(run: Run, name: str) -> bool:
    return name in run.withheld and not run.figure(name)


def _notes(run: Run, withheld: Sequence[str]) -> tuple[str, ...]:
    """Each reason once, after its figures."""
    by_reason: dict[str, list[str]] = {}
    for name in withheld:
        by_reason.setdefault(run.withheld[name], []).append(title_of(name))
    return tuple(f"Withheld: {', '.join(names)}. {as_sentence(reason)}" for reason, names in by_reason.items())


def _timed(run: Run) -> list[str]:
    """The latencies of the run, in the order of its figures."""
    names = [figure.name.removesuffix("_p50") for figure in run.figures if figure.name.endswith("_p50")]
    return [name for name in names if name in PHASES or name.partition("_")[0] in KINDS]


def _types(run: Run) -> list[str]:
    """The message types that were counted; in an older run, those that were answered."""
    counted = [figure.name.removeprefix("answered_") for figure in run.figures if figure.name.startswith("answered_")]
    return counted or list(dict.fromkeys(name.partition("_")[2] for name in _timed(run) if name.startswith("service_")))


def _kind(run: Run) -> str:
    return next((kind for kind in KINDS if kind in _timed(run)), "")


def _row_title(name: str) -> str:
    return latency_title(name) + (", all exchanges" if name in KINDS else "")


# Figures


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"- of {figure.count:,}" if figure.is_of_few else shown(figure)


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{quantity(figure.low, figure.unit)} to {quantity(figure.high, figure.unit)}"
