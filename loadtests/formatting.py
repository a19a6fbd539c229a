"""Figures as a person reads them, and tables of them, for terminals and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["change", "number", "percent", "quantity", "render_table", "title_of", "told_apart"]

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
# A figure's unit -> the units in which a person reads it, with their sizes, the smallest first.
_SCALES = {
    "us": (("µs", 1.0), ("ms", 1e3), ("s", 1e6)),
    "ms": (("ms", 1.0), ("s", 1e3)),
    "KiB": (("KiB", 1.0), ("MiB", 1024.0), ("GiB", 1024.0**2)),
    "MiB": (("MiB", 1.0), ("GiB", 1024.0)),
}


def title_of(figure: str) -> str:
    """What a figure is called in a report."""
    if figure in _TITLES:
        return _TITLES[figure]
    name, _, quantile = figure.rpartition("_")
    kind, _, series = name.partition("_")
    if kind in _LATENCIES:
        return f"{_LATENCIES[kind]} {quantile}" + (f", {series}" if series else "")
    return f"{name.replace('_', ' ')} {quantile}".strip()


def number(value: float) -> str:
    """A number with three significant digits, or two below 1, its thousands grouped; a whole number has no decimals.

    The rounded value decides how many decimals there are: 9.999 and 10.04 are both 10.0, and 999.6 is 1,000.
    """
    if value == int(value):
        return f"{int(value):,}"
    exponent = _exponent(value, 3)
    decimals = max(0, 2 - exponent) if exponent >= 0 else max(2, 1 - _exponent(value, 2))
    return f"{value:,.{decimals}f}"


def _exponent(value: float, digits: int) -> int:
    """The power of ten of a value that is rounded to so many significant digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def quantity(value: float, unit: str) -> str:
    """A figure as number() writes it, in the unit that suits its size: 6.48 ms instead of 6,480 µs."""
    scales = _SCALES.get(unit, ((unit, 1.0),))
    name, size = scales[0]
    for larger_name, larger in scales[1:]:
        if abs(float(number(value / size).replace(",", ""))) * size >= larger:
            name, size = larger_name, larger
    return f"{number(value / size)}{'' if name.startswith('%') else ' '}{name}".strip()


def percent(fraction: float, signed: bool = False) -> str:
    """A fraction in percent with as many digits as it needs to be told from nothing."""
    value = 100 * fraction
    decimals = 0 if round(abs(value), 1) >= 100 or value == int(value) else 1 if round(abs(value), 2) >= 1 else 2
    shown = f"{value:{'+' if signed and round(value, decimals) else ''},.{decimals}f}"
    return f"{0:.{decimals}f}%" if float(shown.replace(",", "")) == 0 else shown + "%"


def told_apart(value: float, limit: float, decimals: int = 0) -> str:
    """A value beyond a limit that stands beside it, with as many decimals as tell the two apart: 85.2, more than 85."""
    while decimals < 6 and round(value, decimals) == round(limit, decimals):
        decimals += 1
    return f"{value:,.{decimals}f}"


def change(fraction: float) -> str:
    """A relative change with its sign, in percent; as a multiple, which people can picture, where it is tenfold."""
    if fraction < 10:
        return percent(fraction, signed=True)
    return f"{number(1 + fraction)}x"


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it also reads well as plain text; all columns but the first to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
