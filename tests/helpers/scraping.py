"""Read the metrics, health checks and page of a server, as a scraper or a load balancer does."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
from pathlib import Path
from typing import NamedTuple

from tests.helpers.processes import PATIENCE_S, GserverProcess

__all__ = ["Answer", "metrics_address", "metrics_pid", "read_metrics", "request", "sockets_of", "total"]

Address = tuple[str, int] | str


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    text: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(address: Address, path: str, method: str = "GET", source: str | None = None) -> Answer:
    """Send a request to an address or to the path of a unix socket; OSError if there is no answer.

    Args:
        source: the IP address that the request comes from; default: the system chooses.
    """
    if isinstance(address, str):
        connection: http.client.HTTPConnection = _UnixConnection(address)
    else:
        local = None if source is None else (source, 0)
        connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S, source_address=local)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, answer.read().decode())
    finally:
        connection.close()


def read_metrics(address: Address, source: str | None = None) -> dict[str, float]:
    """Return the samples of /metrics, as 'name{label="value"}' -> value."""
    answer = request(address, "/metrics", source=source)
    assert answer.status == 200, answer
    samples = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def total(metrics: dict[str, float], name: str) -> float:
    """The sum of all samples of one name."""
    return sum(value for sample, value in metrics.items() if re.split("[{ ]", sample)[0] == name)


def metrics_address(server: GserverProcess) -> tuple[str, int]:
    """The TCP address that the server has logged last for its metrics."""
    host, port = re.findall(r"Metrics and health at: ([\d.]+):(\d+)", server.log)[-1]
    return host, int(port)


def metrics_pid(server: GserverProcess) -> int:
    """The pid of the metrics process that became ready last."""
    return int(re.findall(r"Metrics process ready \(pid: (\d+)\)", server.log)[-1])


def sockets_of(pid: int) -> set[str]:
    """The names of the sockets that a process has open, as in the table of the kernel: 'socket:[INODE]'."""
    targets: set[str] = set()
    for name in _names(pid):
        with contextlib.suppress(FileNotFoundError):  # it was closed in between
            targets.add(str(Path(f"/proc/{pid}/fd/{name}").readlink()))
    return {target for target in targets if target.startswith("socket:")}


def _names(pid: int) -> list[str]:
    return [entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()]
