"""Figures as a person reads them, and tables of them, for terminals and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["change", "human", "percent", "render_table", "title_of"]

_TITLES = {
    "sockets_peak": "sockets held at once",
    "sockets_used": "connections that were answered at least once",
    "connects_ok": "connects",
    "limit_rate": "the highest rate that holds",
    "limit_sockets": "the most sockets that hold",
    "connects_failed": "connects that failed",
    "exchanges_ok": "exchanges",
    "exchanges_failed": "exchanges that failed",
    "exchanges_cut_off": "exchanges cut off by the end",
    "exchanges_unsent": "exchanges due and never sent",
    "attempts": "attempts in the measured phase",
    "attempts_failed": "attempts that failed",
    "attempts_failed_exchange": "exchanges that failed in it",
    "attempts_failed_connect": "connects that failed in it",
    "attempts_failed_tls": "TLS handshakes that failed in it",
    "attempts_failed_close": "closes that failed in it",
    "sockets_least": "sockets held, at the least",
    "sockets_mean": "sockets held, mean",
    "reconnects": "connections lost and opened again",
    "error_rate": "error rate, of all attempts",
    "steady_s": "measured for",
    "throughput": "throughput",
    "offered": "asked for by the schedules",
    "generator_cpu": "generator: processor",
    "generator_lag_max": "generator: worst lateness",
    "generator_late": "generator: sends that were late",
    "server_rss_peak": "server: memory, peak",
    "server_rss_per_socket": "server: memory per connection",
    "server_cpu": "server: processor",
    "server_cpu_per_exchange": "server: processor time per exchange",
    "server_processes": "server: processes",
    "server_descriptors": "server: descriptors",
    "server_sockets": "server: sockets",
    "server_switches": "server: context switches",
    "server_memory_growth": "server: growth of memory at a constant number of connections",
    "listen_overflows": "server: connection requests that its full queue dropped",
    "host_listen_overflows": "host: connects that found a full queue, of this or another server",
}
_LATENCIES = {"service": "service time", "response": "response time"}


def title_of(figure: str) -> str:
    """What a figure is called in a report."""
    if figure in _TITLES:
        return _TITLES[figure]
    name, _, quantile = figure.rpartition("_")
    kind, _, series = name.partition("_")
    if kind in _LATENCIES:
        return f"{_LATENCIES[kind]} {quantile}" + (f", {series}" if series else "")
    return f"{name.replace('_', ' ')} {quantile}".strip()


def human(value: float, unit: str) -> str:
    """A figure with three significant digits, thousands grouped, and its unit."""
    if value == int(value) or abs(value) >= 1000:
        number = f"{value:,.0f}"
    else:
        decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        number = f"{value:.{decimals}f}"
    return f"{number}{'' if unit.startswith('%') else ' '}{unit}"


def percent(fraction: float, signed: bool = False) -> str:
    """A fraction in percent with as many digits as it needs to be told from nothing."""
    value = 100 * fraction
    decimals = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 1 else 2
    number = f"{value:{'+' if signed and round(value, decimals) else ''},.{decimals}f}"
    return f"{0:.{decimals}f}%" if float(number.replace(",", "")) == 0 else number + "%"


def change(fraction: float) -> str:
    """A relative change with its sign, in percent; as a multiple, which people can picture, where it is tenfold."""
    if fraction < 10:
        return percent(fraction, signed=True)
    return f"{human(1 + fraction, '').strip()}x"


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it also reads well as plain text; all columns but the first to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
