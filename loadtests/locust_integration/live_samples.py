"""Live samples of a server as rows for a web page: the last ten minutes from `loadtests sample`.

The sampler is a process of its own, as in a run, so that a busy Locust does not delay it. It ends with Locust.
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
    """The options of `loadtests sample` for the server; empty if no server is named. ValueError names a wrong option.

    Args:
        pid, sampler, stats: values of --server-pid, --server-sampler and --server-stats, or "".
        host: tcp://HOST:PORT that is tested, or "".
    """
    if sampler:
        if pid or stats:
            raise ValueError(
                "--server-sampler goes without --server-pid and --server-stats: the sampler there has its own"
            )
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
    """The newest samples of a server, from a sampler process that it starts. close() ends that process.

    Args:
        sampler_options: of `loadtests sample`; if the sampler does not accept them, `ended` has its message.

    Attributes:
        rows: see row_of().
        ended: why no more rows come; "" while they do.
    """

    def __init__(self, sampler_options: Sequence[str]) -> None:
        self.rows: deque[Row] = deque(maxlen=ROWS)
        self.ended = ""
        # A pipe instead of a file, so that the sampler ends even if this process is killed.
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
        messages = self._process.stderr.read().decode(errors="replace").splitlines()
        self.ended = messages[-1].removeprefix("loadtests sample: ") if messages else "the sampler ended"

    def newer(self, since: float = -1.0) -> dict[str, Any]:
        """The rows after the time `since`, and `ended`; the page requests this every second."""
        return {"rows": [row for row in self.rows if row["t"] > since], "ended": self.ended}

    def close(self) -> None:
        """End the sampler, and wait until it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()


def row_of(before: Sample, after: Sample, start_s: float) -> Row:
    """The figures of the time between two samples; pure. Figures that the sampler does not have are left out.

    "t": seconds since `start_s`; "cpu": percent of a core, all processes of the tree together; "rss": MiB; "sockets":
    connections by gserver's own count, or without it "descriptors": open files; "messages": a second; "lag": of the
    event loop, in ms; "queue": connections in the accept queue.
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
    """The figures that gserver itself counts."""
    if "server" not in before or "server" not in after:
        return {}
    counted = after["server"]
    elapsed_s = max(1e-9, after["time_s"] - before["time_s"])
    messages = (counted["messages"] - before["server"]["messages"]) / elapsed_s
    return {"sockets": counted["open"], "messages": messages, "lag": 1000 * counted["lag_s"]}
