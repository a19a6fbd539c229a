"""A run in words a person says: its verdict, and the ten figures that matter. Pure; every output speaks them.

A figure that a run lacks keeps its place, with the reason: that nothing is known is something to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.comparison import FigureComparison
from loadtests.figures import Figure
from loadtests.results import Run
from loadtests.text import change, title_of

__all__ = [
    "UNKNOWN",
    "Saying",
    "Stamp",
    "changed",
    "latency_note",
    "moment",
    "problems_of",
    "quantity",
    "sayings",
    "started",
    "summary_of",
    "title_of_run",
    "titled_figure",
    "verdict_of",
    "workload_of",
]

UNKNOWN = "-"

# What is said of a run by its state, beside the reasons that the run gives itself.
VERDICTS = {
    "valid": ("Valid", "Nothing disturbed this run: its figures are the server's."),
    "generator-bound": (
        "Generator-bound",
        "The generator was the bottleneck: the figures are its own, not the server's.",
    ),
    "noisy-host": ("Noisy host", "Something else ran on this host: the figures may be its doing."),
    "unreconciled": ("Unreconciled", "Client and server did not count the same: some of these figures are wrong."),
    "incomplete": ("Incomplete", "The run did not do what it was meant to: its figures are of a part of it."),
}
#: Of the ten figures that matter, where there is no room for words.
TITLES = (
    "connections at once",
    "exchanges a second",
    "latency, median",
    "latency, 99th percentile",
    "latency, 99.9th percentile",
    "failed",
    "connecting, median",
    "processor time per exchange",
    "memory per connection",
    "generator's processor use",
)
_SCALES = {
    "us": (("µs", 1.0), ("ms", 1e3), ("s", 1e6)),
    "ms": (("ms", 1.0), ("s", 1e3)),
    "KiB": (("KiB", 1.0), ("MiB", 1024.0), ("GiB", 1024.0**2)),
    "MiB": (("MiB", 1.0), ("GiB", 1024.0)),
}


@dataclass(frozen=True)
class Saying:
    """One figure: `value` as it is said, and `words` that go on from it; `figure` names what it is about."""

    figure: str
    value: str
    words: str


@dataclass(frozen=True)
class Stamp:
    """What a run says of itself: its state, a title and a sentence for it, and the run's own reasons."""

    state: str
    title: str
    sentence: str
    reasons: tuple[str, ...]


def quantity(value: float, unit: str) -> str:
    """A figure of three digits in the unit that suits its size: 6.48 ms, and not 6,480 us."""
    scales = _SCALES.get(unit, ((unit, 1.0),))
    name, size = next(((name, size) for name, size in reversed(scales) if abs(value) >= size), scales[0])
    number = _number(value / size)
    return f"{number}{'' if name.startswith('%') else ' '}{name}".strip()


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def titled_figure(name: str) -> str:
    """What a figure is called beside others: its kind of latency first."""
    kind, _, quantile = name.rpartition("_")
    return f"{kind} time {quantile}" if kind in ("service", "response") else title_of(name).removeprefix("server: ")


def changed(figure: FigureComparison, value: float) -> str:
    """A change of B against A: relative, or in the figure's own unit where there is no ratio."""
    if figure.scale == "ratio":
        return change(value)
    return f"{'+' if value > 0 else ''}{quantity(value, figure.unit)}"


def title_of_run(run: Run) -> str:
    return f"{run.name}: {run.label}" if run.label else run.name


def started(run: Run) -> str:
    """When it began, as a person writes it: the run has it in ISO 8601."""
    return moment(run.started_at)


def moment(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def workload_of(run: Run) -> str:
    """What the swarm did, in one line."""
    workload = run.workload
    parts = [f"{workload['sockets']:,} connections"]
    if rate := workload.get("rate"):
        parts.append(f"{_pace(rate)} on each")
    if duration := workload.get("duration_s"):
        parts.append(f"{_number(duration)} seconds")
    return ", ".join(parts)


def _pace(rate: float) -> str:
    if rate > 1:
        return f"{_number(rate)} exchanges a second"
    return "an exchange a second" if rate == 1 else f"an exchange every {_number(float(f'{1 / rate:.3g}'))} seconds"


def verdict_of(run: Run) -> Stamp:
    """The run's verdict on itself."""
    verdict = run.verdict
    title, sentence = VERDICTS.get(verdict.state, (verdict.state, ""))
    return Stamp(verdict.state, title, sentence, tuple(verdict.reasons))


def problems_of(run: Run) -> list[str]:
    """What went wrong, a line each."""
    errors = [f"Error: {what}: {count:,}" for what, count in sorted(run.errors.items())]
    return [*errors, *(f"Warning: {warning}" for warning in run.warnings)]


def summary_of(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A table of several runs beside each other, the header first: what matters, and its value in each of them."""
    columns = [sayings(run) for run in runs]
    header = ("", *(title_of_run(run) for run in runs))
    verdicts = ("verdict", *(verdict_of(run).title.lower() for run in runs))
    rows = [(title, *(column[place].value for column in columns)) for place, title in enumerate(TITLES)]
    return [header, verdicts, *rows]


def sayings(run: Run) -> list[Saying]:
    """The ten figures that matter."""
    return [
        _connections(run),
        _throughput(run),
        _latency(run, "p50", "half of the answers came within it"),
        _latency(run, "p99", "99 of 100 answers came within it"),
        _latency(run, "p99.9", "999 of 1,000 answers came within it"),
        _failures(run),
        _connects(run),
        _processor(run),
        _memory(run),
        _generator(run),
    ]


def latency_note(run: Run) -> str:
    """Which of the two latencies the sayings are about, and since when it counts."""
    if run.figure("response_p50"):
        return "Answers are timed from the moment a send was due, so that a server that stalls cannot hide it."
    if run.figure("service_p50"):
        return "Answers are timed from their send, as nothing was due at a time of its own."
    return ""


def _connections(run: Run) -> Saying:
    wanted = run.workload["sockets"]
    peak = run.figure("sockets_peak")
    if not peak:
        return Saying("sockets_peak", UNKNOWN, "nothing is known of the connections")
    if peak.value >= wanted:
        return Saying("sockets_peak", _number(peak.value), "connections held at once, all that were wanted")
    return Saying("sockets_peak", _number(peak.value), f"connections held at once, of {wanted:,} that were wanted")


def _throughput(run: Run) -> Saying:
    throughput, seconds, offered = run.figure("throughput"), run.figure("steady_s"), run.figure("offered")
    if not throughput:
        return Saying("throughput", UNKNOWN, "exchanges a second: the connections were never all there for a second")
    words = "exchanges a second"
    if seconds:
        words += f", for {_number(seconds.value)} {'second' if seconds.value == 1 else 'seconds'}"
    if offered and offered.value:
        words += f"; {_number(offered.value)} were asked for"
    return Saying("throughput", _number(throughput.value), words)


def _latency(run: Run, quantile: str, words: str) -> Saying:
    for latency in ("response", "service"):
        if figure := run.figure(f"{latency}_{quantile}"):
            return Saying(figure.name, _said(figure), words)
    return Saying(f"response_{quantile}", UNKNOWN, "no answer was timed")


def _failures(run: Run) -> Saying:
    exchanges, connects = _count(run, "exchanges_failed"), _count(run, "connects_failed")
    tried = f"{_number(exchanges + _count(run, 'exchanges_ok'))} exchanges"
    if not exchanges and not connects:
        return Saying("error_rate", "none", f"of {tried} failed")
    rate = run.figure("error_rate")
    value = _said(rate) if rate and rate.value else _number(exchanges + connects)
    return Saying("error_rate", value, f"failed: {_number(exchanges)} of {tried}, and {_number(connects)} connects")


def _count(run: Run, name: str) -> float:
    figure = run.figure(name)
    return figure.value if figure else 0.0


def _connects(run: Run) -> Saying:
    median, tail = run.figure("connect_p50"), run.figure("connect_p99")
    if not median:
        return Saying("connect_p50", UNKNOWN, "nobody connected")
    words = "to connect, for half of them"
    return Saying("connect_p50", _said(median), words + (f"; {_said(tail)} for 99 of 100" if tail else ""))


def _processor(run: Run) -> Saying:
    each, all_of_it = run.figure("server_cpu_per_exchange"), run.figure("server_cpu")
    if not each:
        return Saying("server_cpu_per_exchange", UNKNOWN, "nothing is known of the server's processor time")
    words = "of the server's processor time for an exchange"
    if each.low is not None and each.high is None:
        words += ", at least"
    return Saying(each.name, _said(each), words + (f"; {_said(all_of_it)} in all" if all_of_it else ""))


def _memory(run: Run) -> Saying:
    name = "server_rss_per_socket"
    each, peak, growth = run.figure(name), run.figure("server_rss_peak"), run.figure("server_memory_growth")
    most = f"{_said(peak)} at most" if peak else ""
    if not each:
        why = run.withheld.get(name, "")
        return Saying(
            name, UNKNOWN, f"of memory for a connection is not known{why and f': {why}'}{most and f'; {most}'}"
        )
    words = "of the server's memory for a connection"
    if each.low is not None and each.high is not None:
        words += f" ({quantity(each.low, each.unit)} to {quantity(each.high, each.unit)})"
    if growth:
        words += f"; beside that memory grew by {_said(growth)} at a constant number of connections: a leak or a cache"
    return Saying(each.name, _said(each), words + (f"; {most}" if most else ""))


def _generator(run: Run) -> Saying:
    cpu, lag = run.figure("generator_cpu"), run.figure("generator_lag_max")
    if not cpu:
        return Saying("generator_cpu", UNKNOWN, "nothing is known of the generator")
    value, _, of_what = _said(cpu).partition(" ")
    words = f"{of_what} was what the generator used".strip()
    return Saying("generator_cpu", value, words + (f"; it was {_said(lag)} late at worst" if lag else ""))


def _said(figure: Figure) -> str:
    return quantity(figure.value, figure.unit)
