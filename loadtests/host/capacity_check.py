"""Checks whether this host can hold a server and a swarm of some size, and names the limits to raise. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtests.host.capacity import Host
from loadtests.host.environment import RESERVED_DESCRIPTORS

__all__ = ["Finding", "Level", "Need", "Plan", "examine", "fits", "plan", "shown_mib"]

# Kernel memory of an idle socket: 3.9 KiB, measured with 8,000 pairs over the loopback interface on Linux 6.18.
KERNEL_BYTES = 4 * 1024
# Socket buffers while messages are in flight: a page for each end.
BUFFER_BYTES = 4 * 1024
# For each connection in the server and each user in the generator, in addition to the processes themselves.
SERVED_BYTES = 1024
USER_BYTES = 16 * 1024
SERVER_PROCESS_BYTES = 45 * 2**20
GENERATOR_PROCESS_BYTES = 80 * 2**20
# The rest of the available memory is left to other processes.
MEMORY_SHARE = 0.9
# With more processes per core, a run would mostly measure context switches.
PROCESSES_PER_CORE = 4
NOISY_CORES = 0.1
NOISY_STEAL = 0.02
# How long a closed connection occupies its port (TCP_TIMEWAIT_LEN).
TIME_WAIT_S = 60

Level = Literal["ok", "doubt", "short"]


@dataclass(frozen=True)
class Need:
    """The size of a load whose server and swarm run on one host."""

    name: str
    sockets: int
    connects_per_s: int


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: "ok", "doubt" (works, but perhaps not well), "short" (a limit is too low).
        check: its name.
        state: the limit of this host, and its use.
        fix: a command or an advice; "" if nothing needs to be changed.
    """

    level: Level
    check: str
    state: str
    fix: str = ""


@dataclass(frozen=True)
class Plan:
    """The minimum for a load: processes of the server and as many of the swarm, source addresses, memory of both."""

    processes: int
    addresses: int
    memory_bytes: int


def plan(host: Host, need: Need) -> Plan:
    """The minimum that `need` takes on this host."""
    processes = math.ceil(need.sockets / _sockets_per_process(host))
    each = 2 * KERNEL_BYTES + SERVED_BYTES + USER_BYTES
    base = processes * (SERVER_PROCESS_BYTES + GENERATOR_PROCESS_BYTES)
    return Plan(processes, math.ceil(need.sockets / _ports(host)), need.sockets * each + base)


def _sockets_per_process(host: Host) -> int:
    return max(1, host.hard_descriptors - RESERVED_DESCRIPTORS)


def _ports(host: Host) -> int:
    low, high = host.ports
    return max(1, high - low + 1)


def examine(host: Host, need: Need) -> list[Finding]:
    """Compare each limit of the host with the need."""
    least = plan(host, need)
    return [
        _descriptors(host, need, least),
        _system_descriptors(host, need),
        _source_ports(host, least),
        _time_wait(host, need, least),
        _backlog(host, need),
        _syn_backlog(host, need),
        _memory(host, least),
        _tcp_memory(host, need),
        _cores(host),
        _quiet(host),
        *_tracking(host, need),
    ]


def fits(findings: Sequence[Finding]) -> bool:
    """Whether no limit is too low."""
    return all(finding.level != "short" for finding in findings)


def _descriptors(host: Host, need: Need, least: Plan) -> Finding:
    state = f"{host.hard_descriptors:,} per process: {least.processes} of the server, {least.processes} of the swarm"
    needed = min(host.most_descriptors, math.ceil(need.sockets / host.cores) + RESERVED_DESCRIPTORS)
    fix = f"as root: ulimit -n {needed}"
    if least.processes > PROCESSES_PER_CORE * host.cores:
        return Finding("short", "open files", f"{state}, too many for {_many(host.cores, 'core')}", fix)
    if least.processes > host.cores:
        return Finding("doubt", "open files", f"{state}, on {_many(host.cores, 'core')}", fix)
    return Finding("ok", "open files", state)


def _system_descriptors(host: Host, need: Need) -> Finding:
    needed = host.system_descriptors_used + 2 * need.sockets + 20 * RESERVED_DESCRIPTORS
    state = f"{host.system_descriptors - host.system_descriptors_used:,} left for all processes together"
    if needed > host.system_descriptors:
        return Finding("short", "open files, all", state, f"sysctl -w fs.file-max={needed}")
    return Finding("ok", "open files, all", state)


def _source_ports(host: Host, least: Plan) -> Finding:
    """Never "short": the loopback interface has 16 million addresses, each with its own ports."""
    last = f"127.0.{(least.addresses - 1) // 254}.{(least.addresses - 1) % 254 + 1}"
    where = "127.0.0.1 alone" if least.addresses == 1 else f"127.0.0.1 to {last}"
    state = f"{_ports(host):,} per source address: connects from {where}"
    if _ports(host) < 10_000:
        return Finding("doubt", "ports", state, "sysctl -w net.ipv4.ip_local_port_range='1024 65535'")
    return Finding("ok", "ports", state)


def _time_wait(host: Host, need: Need, least: Plan) -> Finding:
    """Matters for runs that follow each other on the same port, and for connections that are often reopened."""
    often = need.connects_per_s * TIME_WAIT_S > _ports(host) * least.addresses
    if host.time_wait_reuse:
        where = " over loopback" if host.time_wait_reuse == 2 else ""
        return Finding("ok", "closed ports", f"can be used again after a second{where}")
    state = f"cannot be used again for {TIME_WAIT_S} s"
    if often:
        return Finding("doubt", "closed ports", state, "sysctl -w net.ipv4.tcp_tw_reuse=2")
    return Finding("ok", "closed ports", state)


def _backlog(host: Host, need: Need) -> Finding:
    """A server that is busy for a second has the new connections of a second in its accept queue."""
    needed = min(need.sockets, need.connects_per_s)
    state = f"{host.somaxconn:,} connections at most, {needed:,} arrive per second"
    if host.somaxconn < needed:
        return Finding("short", "accept queue", state, f"sysctl -w net.core.somaxconn={_rounded(needed)}")
    return Finding("ok", "accept queue", state)


def _syn_backlog(host: Host, need: Need) -> Finding:
    needed = min(need.sockets, need.connects_per_s)
    state = f"{host.syn_backlog:,} half-open connections at most"
    if host.syn_backlog < needed // 4:  # a round trip of a quarter of a second is long, even to another host
        return Finding("doubt", "handshakes", state, f"sysctl -w net.ipv4.tcp_max_syn_backlog={_rounded(needed)}")
    return Finding("ok", "handshakes", state)


def _memory(host: Host, least: Plan) -> Finding:
    state = f"{shown_mib(host.available_bytes)} available, server and swarm need about {shown_mib(least.memory_bytes)}"
    if least.memory_bytes > MEMORY_SHARE * host.available_bytes:
        return Finding("short", "memory", state, "free some, or run server and swarm on separate hosts")
    return Finding("ok", "memory", state)


def _tcp_memory(host: Host, need: Need) -> Finding:
    if host.tcp_pressure_bytes is None:
        return Finding("doubt", "TCP buffers", "this kernel does not report its limit")
    needed = 2 * need.sockets * BUFFER_BYTES
    state = (
        f"{shown_mib(host.tcp_pressure_bytes)} before memory pressure, {shown_mib(needed)} if all sockets are in use"
    )
    if needed > host.tcp_pressure_bytes:
        pages = _rounded(needed // 4096 * 2)
        fix = f"sysctl -w net.ipv4.tcp_mem='{pages} {2 * pages} {4 * pages}'"
        return Finding("doubt", "TCP buffers", state, fix)
    return Finding("ok", "TCP buffers", state)


def _cores(host: Host) -> Finding:
    if host.cores < 2:
        return Finding("doubt", "cores", "1: server and swarm share it", "run server and swarm on separate hosts")
    return Finding("ok", "cores", f"{host.cores}: server and swarm can have separate ones")


def _quiet(host: Host) -> Finding:
    state = f"other processes use {host.others_cores:.2f} cores, the hypervisor steals {100 * host.steal:.1f}%"
    if host.steal > NOISY_STEAL:
        return Finding("doubt", "quiet", state, "use a host that is not shared")
    if host.others_cores > NOISY_CORES:
        return Finding("doubt", "quiet", state, "top shows those processes")
    return Finding("ok", "quiet", state)


def _tracking(host: Host, need: Need) -> list[Finding]:
    """Connection tracking by the firewall. If nothing is tracked yet, perhaps no rule needs it: only a doubt."""
    if host.tracked is None or host.most_tracked is None:
        return []
    needed = host.tracked + need.sockets
    state = f"{host.most_tracked - host.tracked:,} more connections can be tracked"
    if needed <= host.most_tracked:
        return [Finding("ok", "firewall", state)]
    level: Level = "short" if host.tracked else "doubt"
    return [Finding(level, "firewall", state, f"sysctl -w net.netfilter.nf_conntrack_max={_rounded(needed)}")]


def _rounded(number: int) -> int:
    """The next power of two."""
    return 1 << max(0, number - 1).bit_length()


def shown_mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
