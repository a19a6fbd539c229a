"""The figures of a run: the name, unit and direction of each, used by every output. Pure.

A figure has a name in run.json ("server_cpu_per_exchange") and a title for people ("CPU time per exchange").
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXCHANGE_LATENCIES", "FigureKind", "kind_of", "latency_title", "title_of"]


@dataclass(frozen=True)
class FigureKind:
    """What is known of a figure before it is measured.

    Attributes:
        title: the name that people read.
        unit: the unit in run.json; formatting.quantity() shows it in a unit that fits.
        better: "lower" or "higher"; "" if neither is better.
        about: an explanation for a reader who does not know the term, as a sentence; "" if the title needs none.
    """

    title: str
    unit: str
    better: str = ""
    about: str = ""


_CONNECTIONS, _MEASURED = "connections", "in the measured phase"
_FIGURES = {
    "throughput": FigureKind(
        "throughput", "exchanges/s", "higher", "Exchanges (a request and its reply) that succeeded, a second."
    ),
    "offered": FigureKind(
        "offered load", "exchanges/s", "", "The exchanges a second that the schedules of the users give."
    ),
    "limit_rate": FigureKind("max sustained load", "exchanges/s", "higher", "The highest load that kept the limits."),
    "limit_sockets": FigureKind(
        f"max sustained {_CONNECTIONS}", "sockets", "higher", "The most connections that kept the limits."
    ),
    "sockets_peak": FigureKind(f"peak {_CONNECTIONS}", "sockets", "", "The most connections open at once."),
    "sockets_least": FigureKind(
        f"min {_CONNECTIONS}", "sockets", "higher", f"The fewest connections open at once {_MEASURED}."
    ),
    "sockets_mean": FigureKind(
        f"mean {_CONNECTIONS}", "sockets", "higher", f"The average number of open connections {_MEASURED}."
    ),
    "sockets_used": FigureKind(
        f"answered {_CONNECTIONS}", "sockets", "", "Connections on which at least one reply came."
    ),
    "reconnects": FigureKind("reconnects", "connects", "lower", f"Connections lost and opened again {_MEASURED}."),
    "connects_ok": FigureKind("connects", "connects", "", "Connects that succeeded, in the whole run."),
    "connects_failed": FigureKind("failed connects", "connects", "lower", "In the whole run."),
    "exchanges_ok": FigureKind("exchanges", "exchanges", "", "Exchanges that succeeded, in the whole run."),
    "exchanges_failed": FigureKind("failed exchanges", "exchanges", "lower", "In the whole run."),
    "exchanges_cut_off": FigureKind(
        "unfinished exchanges", "exchanges", "", "Exchanges that still waited for a reply when the run ended."
    ),
    "exchanges_unsent": FigureKind(
        "unsent exchanges", "exchanges", "lower", "Exchanges that were due and were never sent."
    ),
    "attempts": FigureKind(
        "attempts",
        "attempts",
        "",
        f"Exchanges that ended, and connects, handshakes and closes that failed, {_MEASURED}.",
    ),
    "attempts_failed": FigureKind("failed attempts", "attempts", "lower", f"All failures {_MEASURED}."),
    "attempts_failed_exchange": FigureKind("failed attempts: exchanges", "attempts", "lower"),
    "attempts_failed_connect": FigureKind("failed attempts: connects", "attempts", "lower"),
    "attempts_failed_tls": FigureKind("failed attempts: TLS handshakes", "attempts", "lower"),
    "attempts_failed_close": FigureKind("failed attempts: closes", "attempts", "lower"),
    "error_rate": FigureKind("error rate", "%", "lower", f"Failed attempts as a part of all attempts {_MEASURED}."),
    "steady_s": FigureKind("measured time", "s", "", "The length of the measured phase."),
    "generator_cpu": FigureKind(
        "generator CPU", "% of a core", "lower", "The CPU use of the load generator. Above 85% of a core it adds delay."
    ),
    "generator_lag_max": FigureKind(
        "generator max event loop lag", "ms", "lower", "How late the event loop of the load generator was at worst."
    ),
    "generator_late": FigureKind(
        "generator late sends", "% of sends", "lower", "Requests that were sent more than 1 ms after they were due."
    ),
    "server_cpu": FigureKind("server CPU", "% of a core", "lower", "The CPU use of all processes of the server."),
    "server_cpu_per_exchange": FigureKind(
        "CPU time per exchange", "us", "lower", "The CPU time of the server for a request and its reply."
    ),
    "server_rss_peak": FigureKind(
        "peak memory", "MiB", "lower", "The resident memory (RSS) of all processes of the server, at most."
    ),
    "server_rss_per_socket": FigureKind(
        "memory per connection", "KiB", "lower", "How much the memory of the server grows with each connection."
    ),
    "server_memory_growth": FigureKind(
        "memory growth", "KiB/s", "lower", "Growth at a constant number of connections: a leak or a cache."
    ),
    "server_processes": FigureKind("server processes", "processes"),
    "server_descriptors": FigureKind("server file descriptors", "descriptors"),
    "server_sockets": FigureKind("server sockets", "sockets"),
    "server_switches": FigureKind("server context switches", "switches/s", "", "Voluntary ones."),
    "listen_overflows": FigureKind(
        "accept queue overflows",
        "connects",
        "lower",
        "Connection requests dropped because the server's queue was full.",
    ),
    "host_listen_overflows": FigureKind(
        "accept queue overflows, whole host", "connects", "", "Those of this server or of another one on the host."
    ),
}
#: The two latencies of an exchange: title and explanation.
EXCHANGE_LATENCIES = {
    "response": ("latency", "From the moment the request was due to its reply (response time)."),
    "service": ("service time", "From the send of the request to its reply."),
}
_LATENCIES = {
    **EXCHANGE_LATENCIES,
    "connect": ("connect time", "From the call of connect() to the open connection."),
    "tls": ("TLS handshake time", ""),
    "first_byte": ("time to first byte", "From the first send on a connection to the first byte from the server."),
    "close": ("close time", ""),
}
_COUNTS = {"answered": ("answered exchanges", ""), "failed": ("failed exchanges", "lower")}


def kind_of(name: str) -> FigureKind:
    """Title, unit and direction of a figure by its name in run.json. An unknown name is its own title."""
    if name in _FIGURES:
        return _FIGURES[name]
    prefix, _, message_type = name.partition("_")
    if prefix in _COUNTS:
        title, better = _COUNTS[prefix]
        return FigureKind(f"{title}, {message_type}", "exchanges", better)
    latency, _, statistic = name.rpartition("_")
    if found := _latency(latency):
        (title, about), message_type = found
        return FigureKind(f"{statistic} {title}" + (f", {message_type}" if message_type else ""), "us", "lower", about)
    return FigureKind(name.replace("_", " "), "")


def title_of(name: str) -> str:
    """The name that people read: "p99 latency" for response_p99."""
    return kind_of(name).title


def latency_title(latency: str) -> str:
    """The title of a latency without a statistic: "latency, SUM" for response_SUM, "connect time" for connect."""
    found = _latency(latency)
    if not found:
        return latency.replace("_", " ")
    (title, _), message_type = found
    return title + (f", {message_type}" if message_type else "")


def _latency(name: str) -> tuple[tuple[str, str], str] | None:
    """(title, explanation) and the message type, "" for all types."""
    if name in _LATENCIES:
        return _LATENCIES[name], ""
    kind, _, message_type = name.partition("_")
    return (_LATENCIES[kind], message_type) if kind in EXCHANGE_LATENCIES and message_type else None
