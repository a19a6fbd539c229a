"""A run in words and tables. render_* functions return text; nothing is computed here."""

from __future__ import annotations

from loadtests.results import Run
from loadtests.text import human, render_table, title_of

__all__ = ["render_markdown", "render_summary"]

_QUANTILES = ("p50", "p90", "p99", "p99.9", "max")


def render_summary(run: Run) -> str:
    """What a person wants to know at the end of a run, for the terminal."""
    lines = [_headline(run), *_doubts(run), ""]
    width = max(len(title) for title, _ in _summary_rows(run))
    lines += [f"  {title.ljust(width)}  {value}" for title, value in _summary_rows(run)]
    lines += [f"  {problem}" for problem in _problems(run)]
    return "\n".join(lines)


def _headline(run: Run) -> str:
    label = f" ({run.label})" if run.label else ""
    return f"{run.name}{label}, {run.started_at}: {_outcome(run)}"


def _doubts(run: Run) -> list[str]:
    """Why the figures cannot be believed."""
    if run.verdict.is_valid:
        return []
    return [f"  {run.verdict.state.upper()}, not to be believed:", *(f"    {reason}" for reason in run.verdict.reasons)]


def _outcome(run: Run) -> str:
    failed = _value(run, "exchanges_failed") + _value(run, "connects_failed")
    done = human(_value(run, "exchanges_ok"), "exchanges")
    sockets = human(_value(run, "sockets_peak"), "sockets")
    return f"{sockets} at once, {done}, {'no' if not failed else human(failed, '').strip()} errors"


def _summary_rows(run: Run) -> list[tuple[str, str]]:
    rows = [
        ("sockets held at once", f"{_shown(run, 'sockets_peak')} of {run.workload['sockets']:,} wanted"),
        ("connect", _quantiles(run, "connect", ("p50", "p99", "max"))),
        ("throughput", _throughput(run)),
        ("response time", _quantiles(run, "response", _QUANTILES)),
        ("service time", _quantiles(run, "service", _QUANTILES)),
        ("server processor", _joined(run, ("server_cpu", "server_cpu_per_exchange"), ("", "per exchange"))),
        ("server memory", _joined(run, ("server_rss_peak", "server_rss_per_socket"), ("peak", "per connection"))),
        ("generator", _joined(run, ("generator_cpu", "generator_lag_max"), ("", "worst lateness"))),
    ]
    return [(title, value) for title, value in rows if value]


def _throughput(run: Run) -> str:
    if not run.figure("throughput"):
        return "nothing was measured"
    return f"{_shown(run, 'throughput')} over {_shown(run, 'steady_s')}"


def _quantiles(run: Run, name: str, quantiles: tuple[str, ...]) -> str:
    found = [(quantile, run.figure(f"{name}_{quantile}")) for quantile in quantiles]
    return ", ".join(f"{quantile} {human(figure.value, figure.unit)}" for quantile, figure in found if figure)


def _joined(run: Run, names: tuple[str, ...], words: tuple[str, ...]) -> str:
    pairs = [(run.figure(name), word) for name, word in zip(names, words, strict=True)]
    return ", ".join(f"{human(figure.value, figure.unit)} {word}".strip() for figure, word in pairs if figure)


def _problems(run: Run) -> list[str]:
    errors = [f"{what}: {count:,}" for what, count in sorted(run.errors.items())]
    return [*(f"ERROR {error}" for error in errors), *(f"WARNING {warning}" for warning in run.warnings)]


def _value(run: Run, name: str) -> float:
    figure = run.figure(name)
    return figure.value if figure else 0


def _shown(run: Run, name: str) -> str:
    figure = run.figure(name)
    return human(figure.value, figure.unit) if figure else "nothing"


def render_markdown(run: Run) -> str:
    """report.md: the whole run."""
    parts = [
        f"# {run.name}{f': {run.label}' if run.label else ''}",
        f"{run.started_at}. {_outcome(run)[0].upper()}{_outcome(run)[1:]}.",
    ]
    parts.append(f"Verdict on the run itself: **{run.verdict.state}**. {' '.join(run.verdict.reasons)}".strip())
    if problems := _problems(run):
        parts.append("\n".join(f"- {problem}" for problem in problems))
    parts += [
        "## Latency\n\n" + _latency_table(run),
        "Of exchanges that succeeded, in the measure phase; connects: of the whole run.",
        "## Figures\n\n" + _figure_table(run),
        "## Workload\n\n" + _key_table({**run.workload, "hash": run.workload_hash}),
        "## Server\n\n" + _key_table(run.server),
        "## Environment\n\n" + _key_table(run.environment),
    ]
    return "\n\n".join(parts) + "\n"


def _latency_table(run: Run) -> str:
    series = [figure.name.removesuffix("_p50") for figure in run.figures if figure.name.endswith("_p50")]
    rows = []
    for name in series:
        figures = [run.figure(f"{name}_{quantile}") for quantile in _QUANTILES]
        rows.append(
            [name.replace("_", " "), *(human(figure.value, figure.unit) if figure else "" for figure in figures)]
        )
    return render_table(["series", *_QUANTILES], rows)


def _figure_table(run: Run) -> str:
    shown = [figure for figure in run.figures if not figure.name.endswith(tuple(f"_{each}" for each in _QUANTILES))]
    return render_table(["figure", "value"], [[title_of(each.name), human(each.value, each.unit)] for each in shown])


def _key_table(values: dict[str, object]) -> str:
    rows = [[key, str(value).replace("|", "\\|")] for key, value in values.items()]
    return render_table(["", "value"], rows)
