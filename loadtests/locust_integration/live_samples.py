"""The newest samples of a server, as rows for a page: from `loadtests sample`, ten minutes of them.

The sampler is a process of its own, as in a run: a busy Locust cannot blind it, and it ends with Locust.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gevent
import psutil
from gevent import subprocess

from loadtests.host.subprocesses import python_module
from loadtests.results.metrics import Sample, server_cpu
from loadtests.url import parse_host

__all__ = ["Live", "row_of", "sampler_options"]

INTERVAL_S = 1
ROWS = 600
MIB = 2**20

Row = dict[str, float]


def sampler_options(pid: str, sampler: str, stats: str, host: str) -> list[str]:
    """What `loadtests sample` is asked for; nothing if nobody wants that. ValueError if it cannot be.

    pid, sampler, stats: as --server-pid, --server-sampler and --server-stats say, or ""; host: under test, or "".
    """
    if sampler:
        if pid or stats:
            raise ValueError("--server-sampler goes without --server-pid and --server-stats, which are its own affair")
        return ["--connect", sampler]
    if not pid:
        if stats:
            raise ValueError("--server-stats needs --server-pid")
        return []
    if not (pid.isascii() and pid.isdigit() and psutil.pid_exists(int(pid))):
        raise ValueError(f"--server-pid is {pid!r}, and there is no such process")
    port = ["--host", parse_host(host)[0], "--port", str(parse_host(host)[1])] if host else []
    return ["--pid", pid, *port, *(["--stats-socket", stats] if stats else [])]


class Live:
    """The newest samples of a server, from a sampler of its own; close() ends that.

    Args:
        sampler_options: of `loadtests sample`: which server. Where they are wrong, `ended` says how.

    Attributes:
        rows: see row_of().
        ended: why there are no more; empty while they come.
    """

    def __init__(self, sampler_options: Sequence[str]) -> None:
        self.rows: deque[Row] = deque(maxlen=ROWS)
        self.ended = ""
        # By a pipe, and not by a file: a sampler whose reader is gone ends, even if that was killed.
        command = python_module("loadtests", "sample", "--output", "/dev/stdout", "--interval", str(INTERVAL_S))
        self._process: Any = subprocess.Popen(
            [*command, *sampler_options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._reader = gevent.spawn(self._read)

    def _read(self) -> None:
        first = before = None
        for line in self._process.stdout:
            sample = json.loads(line)
            if before is not None and first is not None:
                self.rows.append(row_of(before, sample, first["time_s"]))
            first, before = first or sample, sample
        said = self._process.stderr.read().decode(errors="replace").splitlines()
        self.ended = said[-1].removeprefix("loadtests sample: ") if said else "the sampler ended"

    def told(self, since: float = -1.0) -> dict[str, Any]:
        """What the page asks for every second: the rows after the time `since`, and whether more will come."""
        return {"rows": [row for row in self.rows if row["t"] > since], "ended": self.ended}

    def close(self) -> None:
        """End the sampler, and wait for that."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()


def row_of(before: Sample, after: Sample, start_s: float) -> Row:
    """What is shown of the time between two samples; pure. What the sampler could not have is left out.

    "t" in seconds since `start_s`, "cpu" in percent of a core over all processes of the tree, "rss" in MiB, "sockets":
    connections by gserver's own count, or else open descriptors as "descriptors"; "messages" a second, "lag" in ms,
    "queue": connections that wait to be accepted.
    """
    row = {
        "t": after["time_s"] - start_s,
        "cpu": server_cpu(before, after),
        "rss": sum(process["rss_bytes"] for process in after["processes"]) / MIB,
        **_counted(before, after),
    }
    if "sockets" not in row:
        row["descriptors"] = sum(process["descriptors"] for process in after["processes"])
    if (queue := after.get("kernel", {}).get("accept_queue")) is not None:
        row["queue"] = queue
    return {name: round(value, 3) for name, value in row.items()}


def _counted(before: Mapping[str, Any], after: Mapping[str, Any]) -> Row:
    """By gserver itself."""
    if "server" not in before or "server" not in after:
        return {}
    counted = after["server"]
    elapsed_s = max(1e-9, after["time_s"] - before["time_s"])
    messages = (counted["messages"] - before["server"]["messages"]) / elapsed_s
    return {"sockets": counted["open"], "messages": messages, "lag": 1000 * counted["lag_s"]}
