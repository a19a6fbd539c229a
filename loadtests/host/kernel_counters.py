"""Reads kernel counters of this host: CPU time, TCP, and the accept queues of listeners.

All counters are cumulative: two samples and the time between them make a rate. Network counters belong to one network
namespace, which may be that of another process.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.host.cpu_time import used_between

__all__ = [
    "Listeners",
    "drops_between",
    "listeners",
    "namespace",
    "network",
    "noise",
    "parse_pairs",
    "parse_processors",
    "processors",
    "retransmits",
    "same_namespace",
    "waited",
]

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# sock_diag(7)
_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_DONE, _ERROR = 3, 2
_LISTEN = 1 << 10
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
#: Family, source port (big-endian), source address, cookie, and idiag_rqueue, which is the length of the accept queue
#: of a listener. Attributes follow.
_ROW = struct.Struct("=B3x2s2x16s20x8s4xI")
_ROW_BYTES = 72
_ATTRIBUTE = struct.Struct("=HH")
_SKMEMINFO, _DROPS = 7, 8
_ANY = ("0.0.0.0", "::")


def processors() -> dict[str, float]:
    """CPU seconds of all cores together since boot."""
    with (PROC / "stat").open() as file:
        return parse_processors(file.readline())


def parse_processors(line: str) -> dict[str, float]:
    """Parse the first line of /proc/stat: CPU seconds of processes and interrupts, and those that were stolen.

    Interrupts belong to no process, and much of the work for the loopback interface is done in them.
    """
    user, nice, system, _, _, irq, softirq, steal = (int(word) / _TICKS for word in line.split()[1:9])
    return {"busy_s": user + nice + system, "interrupts_s": irq + softirq, "steal_s": steal}


def waited() -> float | None:
    """Seconds that the calling thread was ready to run and waited for a core; None if the kernel does not count them.

    The second number of schedstat (Documentation/scheduler/sched-stats.rst).
    """
    try:
        return int((PROC / "thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def network(pid: int | str = "self") -> dict[str, int]:
    """TCP counters of a process's network namespace; OSError if there is no such process.

    tcp_memory_bytes is for all sockets, without up to 1 MiB that the kernel accounts for each core separately.
    """
    folder = PROC / str(pid) / "net"
    counted = parse_pairs((folder / "netstat").read_text())["TcpExt"]
    tcp = parse_pairs((folder / "snmp").read_text())["Tcp"]
    held = _sockstat((folder / "sockstat").read_text())
    return {
        "listen_overflows": counted["ListenOverflows"],
        "listen_drops": counted["ListenDrops"],
        "retransmits": tcp["RetransSegs"],
        "tcp_established": tcp["CurrEstab"],
        "tcp_time_wait": held["tw"],
        "tcp_memory_bytes": held["mem"] * _PAGE_BYTES,
    }


def retransmits() -> int:
    """Retransmitted TCP segments in this process's network namespace; OSError if the kernel does not count them."""
    return parse_pairs((PROC / "self/net/snmp").read_text())["Tcp"]["RetransSegs"]


def namespace(pid: int | str = "self") -> int:
    """An id of a process's network namespace, unique over all hosts; OSError if there is no such process.

    It has 48 bits, because a JSON reader may store numbers as 64-bit floats.
    """
    boot = (PROC / "sys/kernel/random/boot_id").read_bytes()
    name = os.readlink(PROC / str(pid) / "ns/net").encode()
    return int.from_bytes(hashlib.sha256(boot + name).digest()[:6])


def parse_pairs(text: str) -> dict[str, dict[str, int]]:
    """Parse netstat or snmp: for each protocol a line of names and a line of numbers."""
    lines = text.splitlines()
    tables = {}
    for names, numbers in zip(lines[::2], lines[1::2], strict=False):
        protocol, _, heads = names.partition(":")
        tables[protocol] = dict(zip(heads.split(), map(int, numbers.split()[1:]), strict=False))
    return tables


def _sockstat(text: str) -> dict[str, int]:
    words = next(line.split()[1:] for line in text.splitlines() if line.startswith("TCP:"))
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def same_namespace(pid: int) -> bool:
    """Whether a process shares the network namespace of this one, which listeners() reads."""
    try:
        return os.readlink(PROC / str(pid) / "ns/net") == os.readlink(PROC / "self/ns/net")
    except OSError:
        return False


@dataclass(frozen=True)
class Listeners:
    """The listening sockets of an address.

    Attributes:
        waiting: connections in their accept queues.
        dropped: socket cookie -> connection requests that were dropped since the socket began to listen, mostly because
            its accept queue was full (`d` of `ss -lntm`). A cookie is unique for each socket.
    """

    waiting: int
    dropped: dict[str, int]


def listeners(port: int, addresses: Collection[str] = ()) -> Listeners | None:
    """The listeners of a TCP port and these addresses (empty: all addresses); None if there are none.

    Read by netlink, which returns listeners only: /proc/net/tcp has a line for every connection.
    """
    rows = [row for family in (socket.AF_INET, socket.AF_INET6) for row in _listening(family) if row.port == port]
    exact = [row for row in rows if row.address in addresses]  # the kernel prefers exact addresses too
    rows = exact or [row for row in rows if not addresses or row.address in _ANY]
    if not rows:
        return None
    return Listeners(sum(row.waiting for row in rows), {row.cookie: row.dropped for row in rows})


def drops_between(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Connection requests that were dropped between two readings; a new listener began at 0."""
    return sum(max(0, dropped - before.get(cookie, 0)) for cookie, dropped in after.items())


class _Row(NamedTuple):
    port: int
    address: str
    waiting: int
    cookie: str
    dropped: int


def _listening(family: int) -> Iterator[_Row]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as diag:
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_SKMEMINFO - 1), _LISTEN)
        diag.sendto(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0) + request, (0, 0))
        while True:
            data = diag.recv(1 << 16)
            for kind, body in _messages(data):
                if kind in (_DONE, _ERROR):
                    return
                yield _row(body)


def _row(body: bytes) -> _Row:
    family, port, address, cookie, waiting = _ROW.unpack_from(body)
    length = 4 if family == socket.AF_INET else 16
    shown = socket.inet_ntop(family, address[:length])
    memory = next((value for kind, value in _attributes(body[_ROW_BYTES:]) if kind == _SKMEMINFO), b"")
    dropped = memory[4 * _DROPS : 4 * _DROPS + 4]  # Linux 4.8
    return _Row(int.from_bytes(port, "big"), shown, waiting, cookie.hex(), int.from_bytes(dropped, sys.byteorder))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def noise(first: Mapping[str, Any], last: Mapping[str, Any]) -> float | None:
    """Cores that other processes used between two samples: all but the server, the generator and the sampler.

    With separate hosts for server and generator, the higher of the two values. None if the samples lack the data. CPU
    time that is lost (see cpu_time.py) counts as noise.
    """
    elapsed_s: float = last["time_s"] - first["time_s"]
    if elapsed_s <= 0 or not all("busy_s" in sample.get("kernel", {}) for sample in (first, last)):
        return None
    here = _processor_s(last, "generator_host") - _processor_s(first, "generator_host")
    there = _processor_s(last, "kernel") - _processor_s(first, "kernel")
    server_s, generator_s = (used_between(first, last, tree).seconds for tree in ("processes", "generator"))
    others_s = [there - server_s, here - generator_s] if "generator_host" in last else [there - server_s - generator_s]
    return max(0.0, *others_s) / elapsed_s


def _processor_s(sample: Mapping[str, Any], host: str) -> float:
    """CPU seconds of all processes of that host, without the sampler."""
    if host == "kernel":
        return float(sample["kernel"]["busy_s"] - sample["sampler"]["cpu_s"])
    found = sample.get(host, {})
    return float(found.get("busy_s", 0.0) - found.get("sampler_cpu_s", 0.0))
