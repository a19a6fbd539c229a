"""A run in words a person says: its verdict, and the ten figures that matter. Pure; every output speaks them.

A figure that a run lacks keeps its place, with the reason: that nothing is known is something to know.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category

from loadtests.comparison.model import FigureComparison
from loadtests.formatting import change, number, quantity, title_of
from loadtests.results.metrics import Figure
from loadtests.results.store import Run
from loadtests.workloads.stages import HELD

__all__ = [
    "DOUBTS",
    "SHORTFALLS",
    "UNKNOWN",
    "WITHHELD",
    "Failure",
    "Saying",
    "Stamp",
    "as_sentence",
    "changed",
    "failures_of",
    "latency_note",
    "moment",
    "one_line",
    "problems_of",
    "said",
    "sayings",
    "server_of",
    "shortened",
    "started",
    "summary_of",
    "title_of_run",
    "titled_figure",
    "verdict_of",
    "version_of",
    "workload_of",
]

UNKNOWN = "-"
#: In a table, of a figure that the run does not give, with a reason.
WITHHELD = "withheld"
# Of a text that somebody else wrote, where it stands among others: the whole is in run.json.
MOST_CHARACTERS = 300

# What is said of a run by its state, beside the reasons that the run gives itself.
VERDICTS = {
    "valid": ("Valid", "Nothing disturbed the measurement."),
    "generator-bound": ("Generator-bound", "The load generator delayed what it measured: the latencies contain that."),
    "noisy-host": ("Noisy host", "Other work on this host probably delayed the server or the generator."),
    "unreconciled": ("Unreconciled", "Client and server did not count the same: some of these figures are wrong."),
    "incomplete": ("Incomplete", "The run did not do all that it was meant to do."),
}
# Categories of Unicode that are not shown as they are: controls, surrogates, and separators of lines and paragraphs.
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")
# What turns the direction of the text that follows.
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# What the reasons of a verdict are about.
SHORTFALLS = "What the server did not do"
DOUBTS = "What limits belief in the figures"
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
#: What may fail: the end of the figure's name, and what one and several of it are called.
FAILURES = (
    ("exchange", "exchange", "exchanges"),
    ("connect", "connect", "connects"),
    ("tls", "TLS handshake", "TLS handshakes"),
    ("close", "close", "closes"),
)


@dataclass(frozen=True)
class Saying:
    """One figure: `value` as it is said, and `words` that go on from it; `figure` names what it is about.

    `why` is a sentence: the reason why the run withholds the figure, or "".
    """

    figure: str
    value: str
    words: str
    why: str = ""


@dataclass(frozen=True)
class Stamp:
    """A verdict: its state, a title and a sentence for it, and the reasons in titled lists, in the order to show them.

    `is_short`: whether the server did not do something that was asked of it, whatever the state.
    """

    state: str
    title: str
    sentence: str
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    is_short: bool = False


@dataclass(frozen=True)
class Failure:
    """A class of failure of a series ("SUM: reset"), how often it came, and the text of the first one, or ""."""

    what: str
    count: int
    example: str


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
    """The run's verdict on itself: whether its figures can be believed."""
    verdict = run.verdict
    title, sentence = VERDICTS.get(verdict.state, (verdict.state, ""))
    parts = ((SHORTFALLS, tuple(verdict.shortfalls)), (DOUBTS, tuple(verdict.doubts)))
    return Stamp(verdict.state, title, sentence, tuple(part for part in parts if part[1]), bool(verdict.shortfalls))


def failures_of(run: Run) -> list[Failure]:
    """The classes of failure, the most frequent first."""
    counted = sorted(run.errors.items(), key=lambda each: (-each[1], each[0]))
    return [Failure(what, count, run.examples.get(what, "")) for what, count in counted]


def problems_of(run: Run) -> list[str]:
    """What went wrong, a line each."""
    errors = [
        f"Error: {one_line(each.what)}: {each.count:,}"
        + (f"; the first: {shortened(each.example)}" if each.example else "")
        for each in failures_of(run)
    ]
    return [*errors, *(f"Warning: {warning}" for warning in run.warnings)]


def one_line(text: str) -> str:
    """Text with its control characters escaped, line breaks too: a terminal would obey them."""
    return "".join(_escape(each) if category(each) in UNSHOWN or each in BIDI else each for each in text.strip())


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one line, and no longer than `most` characters, with how many were left out."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[:most]}... ({len(line) - most:,} more characters)"


def as_sentence(text: str) -> str:
    """With a capital letter at the beginning and a full stop at the end."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}" if text else ""


def server_of(run: Run) -> str:
    """Where the server was, and what started it."""
    address, command = (one_line(str(run.server.get(key, ""))) for key in ("address", "command"))
    return f"Server: {', '.join(part for part in (address, shortened(command)) if part) or 'not known'}"


def version_of(run: Run) -> str:
    """The version of loadtests, and that of the server as far as it is known; "" if the run has neither."""
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
    """A table of several runs beside each other, the header first: what matters, and its value in each of them."""
    columns = [sayings(run) for run in runs]
    header = ("", *(title_of_run(run) for run in runs))
    verdicts = ("verdict", *(verdict_of(run).title.lower() for run in runs))
    rows = [
        (title, *(WITHHELD if column[place].why else column[place].value for column in columns))
        for place, title in enumerate(TITLES)
    ]
    return [header, verdicts, *rows]


def sayings(run: Run) -> list[Saying]:
    """The ten figures that matter."""
    figures = [
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
    return [_explained(run, saying) for saying in figures]


def _explained(run: Run, saying: Saying) -> Saying:
    """With the reason, where the run withholds the figure."""
    if saying.value != UNKNOWN:
        return saying
    return dataclasses.replace(saying, why=as_sentence(run.withheld.get(saying.figure, "")))


def latency_note(run: Run) -> str:
    """Which of the two latencies the sayings are about, and since when it counts."""
    if run.figure("response_p50"):
        return "Answers are timed from the moment a send was due, so that a server that stalls cannot hide it."
    if run.figure("service_p50"):
        return "Answers are timed from their send, as nothing was due at a time of its own."
    return ""


def _connections(run: Run) -> Saying:
    wanted = run.workload["sockets"]
    peak, least, mean = (run.figure(f"sockets_{name}") for name in ("peak", "least", "mean"))
    if not peak:
        return Saying("sockets_peak", UNKNOWN, "nothing is known of the connections")
    one_or_many = "connection" if peak.value == 1 else "connections"
    is_held = run.workload.get("shape", "hold") in HELD
    if is_held and run.schema > 2 and not least and run.figure("throughput"):
        return Saying(
            "sockets_peak", number(peak.value), f"{one_or_many} at once at most: the users open and close them"
        )
    if peak.value < wanted:
        words = f"{one_or_many} held at once, of {wanted:,} that were wanted"
    elif least and mean and is_held and least.value < wanted:
        words = f"connections held at once, but not all the time: {number(least.value)} at the least, "
        words += f"{number(mean.value)} on average"
    else:
        words = f"{one_or_many} held at once, all that were wanted"
    if (again := run.figure("reconnects")) and again.value and is_held:
        words += f"; {number(again.value)} lost and opened again"
    return Saying("sockets_peak", number(peak.value), words)


def _throughput(run: Run) -> Saying:
    throughput, seconds, offered = run.figure("throughput"), run.figure("steady_s"), run.figure("offered")
    if not throughput:
        return Saying("throughput", UNKNOWN, "exchanges a second: the measured phase was never reached")
    words = "exchanges a second"
    if seconds:
        words += f", for {number(seconds.value)} {'second' if seconds.value == 1 else 'seconds'}"
    if offered and offered.value:
        unit = f"{offered.unit.removesuffix('/s')} a second " if offered.unit != throughput.unit else ""
        words += f"; {number(offered.value)} {unit}were asked for"
    return Saying("throughput", number(throughput.value), words)


def _latency(run: Run, quantile: str, words: str) -> Saying:
    for latency in ("response", "service"):
        name = f"{latency}_{quantile}"
        if figure := run.figure(name):
            if not figure.is_of_few:
                return Saying(name, said(figure), words)
            slowest = _slowest(run, latency) if quantile == "p99.9" else ""
            return Saying(
                name,
                UNKNOWN,
                f"{words}: not known from only {_many(figure, 'request' if figure.at_least else 'answer')}{slowest}",
            )
        if name in run.withheld:
            return Saying(name, UNKNOWN, words)
    return Saying(f"response_{quantile}", UNKNOWN, "no answer was timed")


def _many(figure: Figure, what: str) -> str:
    """How many values a quantile was taken of."""
    return f"{figure.count:,} {what}" + ("" if figure.count == 1 else "s")


def _slowest(run: Run, what: str) -> str:
    """What is known of the tail where no percentile is."""
    worst = run.figure(f"{what}_max")
    return f"; the slowest took {said(worst)}" if worst else ""


def _failures(run: Run) -> Saying:
    """Rate and counts of the measured phase; what failed before and after it beside them."""
    attempts, failed = run.figure("attempts"), run.figure("attempts_failed")
    if not attempts or not failed:
        return _failures_of_all(run)
    outside = _failed_in_all(run) - int(failed.value)
    around = f"; {number(outside)} failed before or after the measured phase" if outside > 0 else ""
    if not failed.value:
        return Saying("error_rate", "none", f"of {number(attempts.value)} attempts failed{around}")
    kinds = [(one, many, run.figure(f"attempts_failed_{name}")) for name, one, many in FAILURES]
    which = ", ".join(f"{number(each.value)} {one if each.value == 1 else many}" for one, many, each in kinds if each)
    words = f"failed: {number(failed.value)} of {number(attempts.value)} attempts ({which}){around}"
    rate = run.figure("error_rate")
    return Saying("error_rate", said(rate) if rate else number(failed.value), words)


def _failed_in_all(run: Run) -> int:
    """Attempts of the whole run that failed; what the users' code raised is none."""
    return sum(count for what, count in run.errors.items() if what.partition(":")[0] not in ("task", "server"))


def _failures_of_all(run: Run) -> Saying:
    """Of a run that measured no attempt, or was kept with schema 2: counts of the whole run."""
    failed, succeeded = _failed_in_all(run), _count(run, "exchanges_ok")
    tried = f"{number(failed + succeeded)} attempts of the whole run"
    if not failed:
        return Saying("error_rate", "none", f"of {tried} failed")
    return Saying("error_rate", number(failed), f"of {tried} failed")


def _count(run: Run, name: str) -> float:
    figure = run.figure(name)
    return figure.value if figure else 0.0


def _connects(run: Run) -> Saying:
    median, tail = run.figure("connect_p50"), run.headline("connect_p99")
    if not median:
        return Saying("connect_p50", UNKNOWN, "nobody connected")
    words = "to connect, for half of them"
    if median.is_of_few:
        words += f": not known from only {_many(median, 'connect')}{_slowest(run, 'connect')}"
        return Saying("connect_p50", UNKNOWN, words)
    return Saying("connect_p50", said(median), words + (f"; {said(tail)} for 99 of 100" if tail else ""))


def _processor(run: Run) -> Saying:
    each, all_of_it = run.figure("server_cpu_per_exchange"), run.figure("server_cpu")
    if not each and not all_of_it:
        return Saying("server_cpu_per_exchange", UNKNOWN, "nothing is known of the server's processor time")
    words = "of the server's processor time for an exchange"
    if not each:
        return Saying(
            "server_cpu_per_exchange",
            UNKNOWN,
            f"{words}, as none succeeded" + (f"; {said(all_of_it)} in all" if all_of_it else ""),
        )
    return Saying(each.name, said(each), words + (f"; {said(all_of_it)} in all" if all_of_it else ""))


def _memory(run: Run) -> Saying:
    name = "server_rss_per_socket"
    each, peak, growth = run.figure(name), run.figure("server_rss_peak"), run.figure("server_memory_growth")
    most = f"{said(peak)} at most" if peak else ""
    if not each:
        return Saying(name, UNKNOWN, f"of memory for a connection is not known{most and f'; {most}'}")
    words = "of the server's memory for a connection"
    if each.low is not None and each.high is not None:
        words += f" ({quantity(each.low, each.unit)} to {quantity(each.high, each.unit)})"
    if growth:
        words += f"; beside that memory grew by {said(growth)} at a constant number of connections: a leak or a cache"
    return Saying(each.name, said(each), words + (f"; {most}" if most else ""))


def _generator(run: Run) -> Saying:
    cpu, lag = run.figure("generator_cpu"), run.figure("generator_lag_max")
    if not cpu:
        return Saying("generator_cpu", UNKNOWN, "nothing is known of the generator")
    value, _, of_what = said(cpu).partition(" ")
    words = f"{of_what} was what the generator used".strip()
    return Saying("generator_cpu", value, words + (f"; it was {said(lag)} late at worst" if lag else ""))


def said(figure: Figure) -> str:
    """A figure with its unit; a lower bound is at least that."""
    return f"{'at least ' if figure.at_least else ''}{quantity(figure.value, figure.unit)}"
