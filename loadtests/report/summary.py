"""A run in words: its verdict and its ten key figures. Pure; every output uses them.

A key figure that the run does not have keeps its place and shows the reason.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category

from loadtests.comparison.model import FigureComparison
from loadtests.formatting import change, number, quantity
from loadtests.results.figure_catalog import kind_of, title_of
from loadtests.results.metrics import Figure
from loadtests.results.store import Run
from loadtests.workloads.stages import HELD

__all__ = [
    "DOUBTS",
    "SHORTFALLS",
    "UNKNOWN",
    "VERDICTS",
    "WITHHELD",
    "Failure",
    "KeyFigure",
    "Stamp",
    "as_sentence",
    "changed",
    "failures_of",
    "key_figures",
    "latency_note",
    "listed",
    "moment",
    "one_line",
    "problems_of",
    "server_of",
    "shortened",
    "shown",
    "started",
    "summary_of",
    "title_of_run",
    "verdict_of",
    "version_of",
    "workload_of",
]

UNKNOWN = "-"
#: Shown in a table for a figure that the run withholds with a reason.
WITHHELD = "withheld"
# Length limit of a text from outside (an error message, a command) among other text. run.json has it in full.
MOST_CHARACTERS = 300

#: State of a run -> title and sentence. The reasons that the run gives are shown with them.
VERDICTS = {
    "valid": ("Valid", "Nothing disturbed the measurement."),
    "generator-bound": ("Generator-bound", "The load generator was too slow: the latencies include its own delay."),
    "noisy-host": ("Noisy host", "Other work on this host probably delayed the server or the generator."),
    "unreconciled": ("Unreconciled", "Client and server counted differently: some of these figures are wrong."),
    "incomplete": ("Incomplete", "The run did not do everything that was planned."),
}
# Unicode categories that are shown escaped: control characters, surrogates, line and paragraph separators.
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
# Characters that change the direction of the text after them.
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
#: Titles of the two lists of reasons of a verdict.
SHORTFALLS = "What the server did not do"
DOUBTS = "Why the figures are doubtful"
#: Kinds of failure: the end of the figure's name, singular and plural.
FAILURES = (
    ("exchange", "exchange", "exchanges"),
    ("connect", "connect", "connects"),
    ("tls", "TLS handshake", "TLS handshakes"),
    ("close", "close", "closes"),
)


@dataclass(frozen=True)
class KeyFigure:
    """One of the ten figures of a summary.

    Attributes:
        figure: the name in run.json.
        value: the value with its unit; UNKNOWN if there is none.
        words: an explanation for a layman, without a full stop.
        why: the reason why the run withholds the figure, as a sentence; or "".
    """

    figure: str
    value: str
    words: str
    why: str = ""

    @property
    def title(self) -> str:
        """The name of the figure, the same in every output."""
        return title_of(self.figure)

    @property
    def about(self) -> str:
        """An explanation of the figure as a sentence, or ""."""
        return kind_of(self.figure).about


@dataclass(frozen=True)
class Stamp:
    """A verdict: its state, a title and a sentence, and lists of reasons, each with a title.

    `is_short`: True if the server did not do something that was requested, whatever the state.
    """

    state: str
    title: str
    sentence: str
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    is_short: bool = False


@dataclass(frozen=True)
class Failure:
    """A class of failure of a series ("SUM: reset"), its count, and the text of the first one, or ""."""

    what: str
    count: int
    example: str


def changed(figure: FigureComparison, value: float) -> str:
    """A change of B against A with its sign: relative, or in the figure's own unit if there is no ratio."""
    if figure.scale == "ratio":
        return change(value)
    return f"{'+' if value > 0 else ''}{quantity(value, figure.unit)}"


def listed(names: Sequence[str], empty: str = "") -> str:
    """The names with commas, and "and" before the last; `empty` if there are none."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else empty


def title_of_run(run: Run) -> str:
    return f"{run.name}: {run.label}" if run.label else run.name


def started(run: Run) -> str:
    """When the run started, in UTC, without the marks of ISO 8601."""
    return moment(run.started_at)


def moment(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def workload_of(run: Run) -> str:
    """The load in one line."""
    workload = run.workload
    parts = [f"{workload['sockets']:,} connections"]
    if rate := workload.get("rate"):
        parts.append(f"{_pace(rate, 'task' if workload.get('file') else 'exchange')} on each")
    if duration := workload.get("duration_s"):
        parts.append(f"{number(duration)} seconds")
    return ", ".join(parts)


def _pace(rate: float, what: str) -> str:
    if rate > 1:
        return f"{number(rate)} {what}s a second"
    one = f"an {what}" if what == "exchange" else f"a {what}"
    return f"{one} a second" if rate == 1 else f"{one} every {number(float(f'{1 / rate:.3g}'))} seconds"


def verdict_of(run: Run) -> Stamp:
    """The verdict of the run on its own figures."""
    verdict = run.verdict
    title, sentence = VERDICTS.get(verdict.state, (verdict.state, ""))
    parts = ((SHORTFALLS, tuple(verdict.shortfalls)), (DOUBTS, tuple(verdict.doubts)))
    return Stamp(verdict.state, title, sentence, tuple(part for part in parts if part[1]), bool(verdict.shortfalls))


def failures_of(run: Run) -> list[Failure]:
    """The classes of failure, the most frequent first."""
    counted = sorted(run.errors.items(), key=lambda each: (-each[1], each[0]))
    return [Failure(what, count, run.examples.get(what, "")) for what, count in counted]


def problems_of(run: Run) -> list[str]:
    """Errors and warnings, one line each."""
    errors = [
        f"Error: {one_line(each.what)}: {each.count:,}"
        + (f"; the first: {shortened(each.example)}" if each.example else "")
        for each in failures_of(run)
    ]
    return [*errors, *(f"Warning: {warning}" for warning in run.warnings)]


def one_line(text: str) -> str:
    """Text with control characters and line breaks escaped, because a terminal would obey them."""
    return "".join(_escape(each) if category(each) in UNSHOWN or each in BIDI else each for each in text.strip())


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one line of at most `most` characters, and the number of characters left out."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[:most]}... ({len(line) - most:,} more characters)"


def as_sentence(text: str) -> str:
    """The text with a capital letter first and a full stop last."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def server_of(run: Run) -> str:
    """The address of the server and the command that started it."""
    address, command = (one_line(str(run.server.get(key, ""))) for key in ("address", "command"))
    return f"Server: {', '.join(part for part in (address, shortened(command)) if part) or 'not known'}"


def version_of(run: Run) -> str:
    """The version of the server, if known, and of loadtests; "" if the run has neither."""
    own, source = run.environment.get("gserver"), run.environment.get("source")
    if not own:
        return ""
    versions = f"gserver {own}" + (f" (source {source})" if source else "")
    command = str(run.server.get("command", ""))
    if commit := re.search(r"@([0-9a-f]{12})", command):
        return f"Version: commit {commit[1]}, measured with {versions}"
    if re.match(r"gserver[ :]", command):
        return f"Version: {versions}"
    return f"Version: not known, measured with {versions}"


def summary_of(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A table of several runs side by side, header first: a row for each key figure, a column for each run."""
    columns = [key_figures(run) for run in runs]
    header = ("", *(title_of_run(run) for run in runs))
    verdicts = ("verdict", *(verdict_of(run).title.lower() for run in runs))
    rows = [
        (
            " or ".join(dict.fromkeys(each.title for each in row)),
            *(WITHHELD if each.why else each.value for each in row),
        )
        for row in zip(*columns, strict=True)
    ]
    return [header, verdicts, *rows]


# The ten key figures


def key_figures(run: Run) -> list[KeyFigure]:
    """The ten figures that matter most, in the order of a summary."""
    figures = [
        _throughput(run),
        _latency(run, "p50", "half of the replies came within this time"),
        _latency(run, "p99", "99 of 100 replies came within this time"),
        _latency(run, "p99.9", "999 of 1,000 replies came within this time"),
        _error_rate(run),
        _connections(run),
        _connect_time(run),
        _cpu_time(run),
        _memory(run),
        _generator(run),
    ]
    return [_explained(run, each) for each in figures]


def _explained(run: Run, key: KeyFigure) -> KeyFigure:
    """With the reason, if the run withholds the figure."""
    if key.value != UNKNOWN:
        return key
    return dataclasses.replace(key, why=as_sentence(run.withheld.get(key.figure, "")))


def latency_note(run: Run) -> str:
    """What the latencies of the summary count from; "" if there are none."""
    if run.figure("response_p50"):
        return "Latency counts from the moment a request was due, so that a stalled server cannot hide the wait."
    if run.figure("service_p50"):
        return "Service time counts from the send of a request. These users have no schedule, so no request was due."
    return ""


def _connections(run: Run) -> KeyFigure:
    requested = run.workload["sockets"]
    peak, least, mean = (run.figure(f"sockets_{name}") for name in ("peak", "least", "mean"))
    if not peak:
        return KeyFigure("sockets_peak", UNKNOWN, "no connection was recorded")
    is_held = run.workload.get("shape", "hold") in HELD
    if is_held and run.schema > 2 and not least and run.figure("throughput"):
        return KeyFigure("sockets_peak", shown(peak), "the most open at once: the users open and close connections")
    if peak.value < requested:
        words = f"the most open at once, of {requested:,} requested"
    elif least and mean and is_held and least.value < requested:
        words = f"all requested connections, but not all the time: min {shown(least)}, mean {shown(mean)}"
    else:
        words = "open at once, all that were requested"
    if (again := run.figure("reconnects")) and again.value and is_held:
        words += f"; {shown(again)} lost and opened again"
    return KeyFigure("sockets_peak", shown(peak), words)


def _throughput(run: Run) -> KeyFigure:
    throughput, seconds, offered = run.figure("throughput"), run.figure("steady_s"), run.figure("offered")
    if not throughput:
        return KeyFigure("throughput", UNKNOWN, "exchanges a second: the run ended before the measured phase")
    words = "exchanges a second (a request and its reply)"
    if seconds:
        words += f", for {shown(seconds)}"
    if offered and offered.value:
        words += f"; {title_of('offered')} {shown(offered)}"
    return KeyFigure("throughput", shown(throughput), words)


def _latency(run: Run, quantile: str, words: str) -> KeyFigure:
    for latency in ("response", "service"):
        name = f"{latency}_{quantile}"
        if figure := run.figure(name):
            if not figure.is_of_few:
                return KeyFigure(name, shown(figure), words)
            slowest = _slowest(run, latency) if quantile == "p99.9" else ""
            counted = _counted(figure, "request" if figure.at_least else "reply")
            return KeyFigure(name, UNKNOWN, f"not known from only {counted}{slowest}")
        if name in run.withheld:
            return KeyFigure(name, UNKNOWN, words)
    return KeyFigure(f"response_{quantile}", UNKNOWN, "no reply was timed")


def _counted(figure: Figure, what: str) -> str:
    """The number of values behind a quantile."""
    many = "replies" if what == "reply" else f"{what}s"
    return f"{figure.count:,} {what if figure.count == 1 else many}"


def _slowest(run: Run, latency: str) -> str:
    """The maximum, which is known even where no percentile is."""
    worst = run.figure(f"{latency}_max")
    return f"; the slowest took {shown(worst)}" if worst else ""


def _error_rate(run: Run) -> KeyFigure:
    """Rate and counts of the measured phase, and the number of failures outside it."""
    attempts, failed, rate = run.figure("attempts"), run.figure("attempts_failed"), run.figure("error_rate")
    if not attempts or not failed or not rate:
        return _error_rate_of_all(run)
    outside = _failed_in_all(run) - int(failed.value)
    around = f"; {number(outside)} failed before or after the measured phase" if outside > 0 else ""
    if not failed.value:
        return KeyFigure("error_rate", shown(rate), f"none of {shown(attempts)} attempts failed{around}")
    kinds = [(one, many, run.figure(f"attempts_failed_{name}")) for name, one, many in FAILURES]
    which = ", ".join(f"{shown(each)} {one if each.value == 1 else many}" for one, many, each in kinds if each)
    words = f"failed: {shown(failed)} of {shown(attempts)} attempts ({which}){around}"
    return KeyFigure("error_rate", shown(rate), words)


def _failed_in_all(run: Run) -> int:
    """Failed attempts of the whole run, without exceptions of the users' own code."""
    return sum(count for what, count in run.errors.items() if what.partition(":")[0] not in ("task", "server"))


def _error_rate_of_all(run: Run) -> KeyFigure:
    """Of a run without attempts in the measured phase, or of schema 2: counts of the whole run."""
    failed, exchanges = _failed_in_all(run), run.figure("exchanges_ok")
    attempts = number(failed + (exchanges.value if exchanges else 0))
    words = f"not known for the measured phase; {number(failed)} of {attempts} attempts of the whole run failed"
    return KeyFigure("error_rate", UNKNOWN, words)


def _connect_time(run: Run) -> KeyFigure:
    median, tail = run.figure("connect_p50"), run.headline("connect_p99")
    if not median:
        return KeyFigure("connect_p50", UNKNOWN, "no connect succeeded")
    if median.is_of_few:
        few = f"not known from only {_counted(median, 'connect')}{_slowest(run, 'connect')}"
        return KeyFigure("connect_p50", UNKNOWN, few)
    words = "half of the connects took no longer"
    return KeyFigure("connect_p50", shown(median), words + (f"; p99 {shown(tail)}" if tail else ""))


def _cpu_time(run: Run) -> KeyFigure:
    each, total = run.figure("server_cpu_per_exchange"), run.figure("server_cpu")
    if not each and not total:
        return KeyFigure("server_cpu_per_exchange", UNKNOWN, "the server was not sampled")
    words = "of the server, for a request and its reply" if each else "no exchange succeeded"
    value = shown(each) if each else UNKNOWN
    return KeyFigure(
        "server_cpu_per_exchange", value, words + (f"; {title_of('server_cpu')} {shown(total)}" if total else "")
    )


def _memory(run: Run) -> KeyFigure:
    name = "server_rss_per_socket"
    each, peak, growth = run.figure(name), run.figure("server_rss_peak"), run.figure("server_memory_growth")
    most = f"; {title_of('server_rss_peak')} {shown(peak)}" if peak else ""
    if not each:
        return KeyFigure(name, UNKNOWN, f"not known{most}")
    words = "of the server"
    if each.low is not None and each.high is not None:
        words += f" (95% interval {quantity(each.low, each.unit)} to {quantity(each.high, each.unit)})"
    if growth:
        words += f"; memory also grew by {shown(growth)} at a constant number of connections: a leak or a cache"
    return KeyFigure(name, shown(each), words + most)


def _generator(run: Run) -> KeyFigure:
    cpu, lag = run.figure("generator_cpu"), run.figure("generator_lag_max")
    if not cpu:
        return KeyFigure("generator_cpu", UNKNOWN, "the generator recorded nothing about itself")
    words = "used by the load generator"
    return KeyFigure("generator_cpu", shown(cpu), words + (f"; max event loop lag {shown(lag)}" if lag else ""))


def shown(figure: Figure) -> str:
    """The value of a figure with its unit; "at least" before a lower bound."""
    return f"{'at least ' if figure.at_least else ''}{quantity(figure.value, figure.unit)}"
