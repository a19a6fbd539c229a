"""Reads the limits of this host: open files, kernel settings, memory, cores, and how busy they are."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.host import kernel_counters

__all__ = ["Host", "inspect_host"]

_SYS = Path("/proc/sys")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WATCH_S = 1.0


@dataclass(frozen=True)
class Host:
    """The limits of a host. None: this kernel does not report the value, or has no such limit."""

    cores: int  # usable by this process
    soft_descriptors: int
    hard_descriptors: int
    most_descriptors: int  # the maximum for a hard limit (nr_open)
    system_descriptors: int
    system_descriptors_used: int
    ports: tuple[int, int]
    somaxconn: int
    syn_backlog: int
    available_bytes: int
    tcp_pressure_bytes: int | None
    time_wait_reuse: int  # 0: never, 1: always, 2: over the loopback interface
    tracked: int | None  # connections in the tracking table of the firewall
    most_tracked: int | None  # the maximum of that table
    others_cores: float  # used by other processes during the inspection
    steal: float  # share of the CPU time that the hypervisor gave to other machines, 0 to 1


def inspect_host(watch_s: float = WATCH_S) -> Host:
    """Read the limits of this host, and measure for `watch_s` seconds how busy it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used, _, system = _numbers("fs/file-nr")
    low, high = _numbers("net/ipv4/ip_local_port_range")
    pressure = _optional("net/ipv4/tcp_mem", 1)
    others, steal = _watch(watch_s)
    return Host(
        cores=len(os.sched_getaffinity(0)),
        soft_descriptors=soft,
        hard_descriptors=hard,
        most_descriptors=_numbers("fs/nr_open")[0],
        system_descriptors=system,
        system_descriptors_used=used,
        ports=(low, high),
        somaxconn=_numbers("net/core/somaxconn")[0],
        syn_backlog=_numbers("net/ipv4/tcp_max_syn_backlog")[0],
        available_bytes=_available_bytes(),
        tcp_pressure_bytes=None if pressure is None else pressure * _PAGE_BYTES,
        time_wait_reuse=_optional("net/ipv4/tcp_tw_reuse") or 0,
        tracked=_optional("net/netfilter/nf_conntrack_count"),
        most_tracked=_optional("net/netfilter/nf_conntrack_max"),
        others_cores=others,
        steal=steal,
    )


def _numbers(name: str) -> list[int]:
    return [int(word) for word in (_SYS / name).read_text().split()]


def _optional(name: str, index: int = 0) -> int | None:
    try:
        return _numbers(name)[index]
    except (OSError, IndexError, ValueError):
        return None


def _available_bytes() -> int:
    """Available memory, limited by the control group."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # without a limit, memory.max is "max"
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        available = min(available, limit - int((group / "memory.current").read_text()))
    return max(0, available)


def _watch(seconds: float) -> tuple[float, float]:
    """The cores that other processes used, and the share of CPU time that was stolen."""
    before, began_s, own = kernel_counters.processors(), time.monotonic(), time.process_time()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - began_s
    after, own = kernel_counters.processors(), time.process_time() - own
    busy_s = after["busy_s"] + after["interrupts_s"] - before["busy_s"] - before["interrupts_s"] - own
    stolen_s = after["steal_s"] - before["steal_s"]
    return max(0.0, busy_s) / elapsed_s, stolen_s / elapsed_s / (os.cpu_count() or 1)
