"""What gserverctl prints for people: tables, the summary of a server, and quantities with their units. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "bytes_text",
    "connection_table",
    "details",
    "duration",
    "listener_table",
    "profile_summary",
    "rate",
    "record_summary",
    "setting_lines",
    "status_text",
    "table",
    "value_text",
    "worker_table",
]

_NONE = "-"
Row = Mapping[str, Any]


def duration(seconds: float | None) -> str:
    """As text, rounded to 5 % or better: 3 ms, 4.2 s, 2 min 30 s, 12 min, 5 h 10 min, 3 d 4 h."""
    if seconds is None:
        return _NONE
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    if seconds < 599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return "{} d {} h".format(*divmod(hours, 24))


def bytes_text(size: int | None) -> str:
    """As text: 312 B, 1.2 KiB, 34 MiB."""
    if size is None:
        return _NONE
    if size < 1024:
        return f"{size} B"
    value, units = float(size), ["KiB", "MiB", "GiB", "TiB"]
    value /= 1024
    while value >= 999.5 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.3g} {units[0]}" if value < 999.5 else f"{value:.0f} {units[0]}"


def rate(per_second: float) -> str:
    """As text: 0, 0.3, 7.5, 12,345."""
    return f"{per_second:,.0f}" if per_second >= 9.95 or per_second == 0 else f"{per_second:.1f}"


def table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Lines with aligned columns; the first row has the headings. `numbers`: the columns that are aligned right."""
    printable = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
    lines = []
    for row in printable:
        cells = [
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    """Some texts come from peers, such as the server name of TLS: nothing in them may control the terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def worker_table(rows: Sequence[Row]) -> str:
    head = [
        "PID",
        "STATE",
        "UP",
        "CONNECTIONS",
        "MESSAGES/S",
        "MESSAGES",
        "ERRORS",
        "LAG",
        "HEARTBEAT",
        "MEMORY",
        "FILES",
    ]
    cells = [
        [
            str(row["pid"]),
            "stuck" if row["stuck"] else row["state"],
            duration(row["up_s"]),
            f"{row['open']:,}",
            rate(row["messages_per_s"]),
            f"{row['messages']:,}",
            f"{row['errors']:,}",
            duration(row["lag_s"]),
            _NONE if row["heartbeat_age_s"] is None else f"{duration(row['heartbeat_age_s'])} ago",
            bytes_text(row["rss_bytes"]),
            _NONE if row["open_files"] is None else f"{row['open_files']:,}",
        ]
        for row in rows
    ]
    return table([head, *cells], numbers=(0, 3, 4, 5, 6, 10))


def listener_table(rows: Sequence[Row]) -> str:
    head = ["NAME", "ADDRESS", "APP", "TLS", "SOCKETS", "QUEUED", "BACKLOG"]
    cells = [
        [
            row["name"],
            row["address"],
            row["app"],
            "yes" if row["tls"] else "no",
            str(row["sockets"]),
            _NONE if row["queued"] is None else str(row["queued"]),
            str(row["backlog"]),
        ]
        for row in rows
    ]
    return table([head, *cells], numbers=(4, 5, 6))


def connection_table(rows: Sequence[Row]) -> str:
    head = ["ID", "PEER", "LISTENER", "TLS", "STATE", "AGE", "IDLE", "MESSAGES", "IN", "OUT", "UNSENT", "HANDLER"]
    cells = [
        [
            row["id"],
            row["peer"] if row["proxy"] is None else f"{row['peer']} by {row['proxy']}",
            row["listener"],
            row["tls"] or _NONE,
            row["state"],
            duration(row["age_s"]),
            duration(row["idle_s"]),
            f"{row['messages']:,}",
            bytes_text(row["received_bytes"]),
            bytes_text(row["sent_bytes"]),
            bytes_text(row["outbox_bytes"]) if row["outbox_bytes"] else _NONE,
            _handler(row),
        ]
        for row in rows
    ]
    return table([head, *cells], numbers=(7,))


def setting_lines(rows: Sequence[Row]) -> str:
    """NAME = VALUE, as --print-config prints it, and whether it can be set live."""
    return "".join(f"{row['name']} = {row['value']}{'  (live)' if row['is_live'] else ''}\n" for row in rows)


def value_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def profile_summary(profile: Row) -> str:
    """One line about a profile."""
    busy = profile["samples"] - profile["idle"]
    return (
        f"{profile['samples']} samples in {duration(profile['seconds'])}, {busy} of them while the worker ran; "
        f"CPU time of its main thread: {duration(profile['cpu_s'])}"
    )


def _handler(row: Row) -> str:
    since = "" if row["handling_s"] is None else f" for {duration(row['handling_s'])}"
    return f"{row['handler'] or ''}{since}".strip() or _NONE


def details(fields: Row) -> str:
    """One line for each field; a list has a line for each item."""
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            lines += [(f"{name}.{inner}", part) for inner, part in value.items()]
        elif isinstance(value, list):
            lines += [(name if index == 0 else "", part) for index, part in enumerate(value)]
        else:
            lines.append((name, value))
    return table([[name, _plain(name, value)] for name, value in lines])


def _plain(name: str, value: Any) -> str:
    if value is None:
        return _NONE
    if name.endswith("_s") and not isinstance(value, bool):
        return duration(value)
    return bytes_text(value) if name.endswith("bytes") else str(value)


def status_text(status: Row, now: float) -> str:
    """The summary of a server.

    Args:
        now: seconds since the epoch.
    """
    workers, connections = status["workers"], status["connections"]
    lines = [
        [
            "server",
            f"{status['name']}, gserver {status['version']}, pid {status['pid']}, up {duration(status['uptime_s'])}",
        ],
        ["state", status["state"]],
        ["ready", "yes" if status["ready"] else f"no: {status['not_ready_because']}"],
        ["listening", ", ".join(status["listeners"]) or _NONE],
        ["workers", _workers(workers)],
        ["connections", f"{connections['open']:,} open, {connections['accepted']:,} accepted"],
        ["closed", _counts(connections["closed"])],
        ["messages", f"{rate(status['messages_per_s'])} a second, {status['messages']:,} in all"],
        ["errors", f"{status['errors']:,}"],
        ["lag", duration(status["lag_s"])],
        ["restarts", _counts(status.get("restarts", {}))],
        ["reloads", _reloads(status["reloads"], now)],
        *[["certificate", _certificate(end, now)] for end in (status["certificate_not_after"],) if end is not None],
        *[["limit", _limit(each)] for each in status["limits"]],
    ]
    return table(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _workers(workers: Row) -> str:
    parts = [f"{workers['serving']} of {workers['target']} serve"]
    starting = workers["booting"] + workers["ready"]
    for count, what in ((starting, "starting"), (workers["draining"], "draining"), (workers["stuck"], "stuck")):
        if count:
            parts.append(f"{count} {what}")
    return ", ".join(parts)


def _reloads(reloads: Row, now: float) -> str:
    last = reloads["last"]
    if last is None:
        return "none"
    ago = f"{duration(max(0.0, now - last['at']))} ago"
    outcome = f"done in {duration(last['seconds'])} ({last['kind']})"
    if last["outcome"] != "done":
        outcome = f"failed: {last['reason']}"
    return f"{reloads['done']} done, {reloads['failed']} failed; the last, {ago}, {outcome}"


def _certificate(not_after: int, now: float) -> str:
    day = datetime.fromtimestamp(not_after, UTC).date()
    return f"valid until {day}, for {duration(not_after - now)}" if not_after > now else f"expired on {day}"


def _limit(limit: Row) -> str:
    share = limit["used"] / limit["limit"]
    of = "" if limit["worker"] is None else f", in worker {limit['worker']}"
    return f"{limit['name']}: {limit['used']:,} of {limit['limit']:,} ({share:.0%}{of})"


def record_summary(result: Row) -> list[str]:
    """Lines about a recording that has ended."""
    count = f"{result['connections']} connection{'' if result['connections'] == 1 else 's'}"
    what = f"{result['events']:,} events, {bytes_text(result['bytes'])}"
    lines = [f"recorded {count} to {result['file']}: {what}; ended: {result['ended']}"]
    if result["dropped_events"]:
        size = bytes_text(result["dropped_bytes"])
        lines.append(f"{result['dropped_events']:,} events ({size}) were dropped, see the lines with dropped")
    if result["skipped"]:
        lines.append(f"{result['skipped']:,} connections were not recorded: there were too many at a time")
    if result["error"] is not None:
        lines.append(result["error"])
    lines += [f"worker {each['pid']} is missing: {each['problem']}" for each in result["missing"]]
    return lines
