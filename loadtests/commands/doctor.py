"""`loadtests doctor [PROFILE]`: what this host can hold, before a run finds out, and what to raise.

Exit status 0; 1 if something is short for the profile that was asked for; 2 if there is no such profile.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtests.host.capacity import Host, look
from loadtests.host.environment import RESERVED_DESCRIPTORS
from loadtests.workloads.profiles import PROFILES, Profile

__all__ = ["Finding", "Need", "Plan", "examine", "fits", "main", "plan", "render", "render_all"]

# Of one socket, idle, in the kernel: measured at 8,000 pairs over the loopback interface on Linux 6.18, 3.9 KiB each.
KERNEL_BYTES = 4 * 1024
# While its messages are under way: a page for each end.
BUFFER_BYTES = 4 * 1024
# Of one connection in the server, and of one user in the generator, beside what each process takes by itself.
SERVED_BYTES = 1024
USER_BYTES = 16 * 1024
SERVER_PROCESS_BYTES = 45 * 2**20
GENERATOR_PROCESS_BYTES = 80 * 2**20
# What is left to everybody else.
MEMORY_SHARE = 0.9
# More processes than this for each core, and switching between them is what is measured.
PROCESSES_A_CORE = 4
NOISY_CORES = 0.1
NOISY_STEAL = 0.02
# How long a closed connection keeps its ports (TCP_TIMEWAIT_LEN).
TIME_WAIT_S = 60
# Where there is no terminal no line is broken.
PLAIN_WIDTH = 160

Level = Literal["ok", "doubt", "short"]
_COLOURS: dict[Level, str] = {"ok": "green", "doubt": "yellow", "short": "red"}


@dataclass(frozen=True)
class Need:
    """What a profile asks of a host that holds both ends."""

    name: str
    sockets: int
    connects_per_s: int

    @classmethod
    def of(cls, profile: Profile) -> Need:
        return cls(profile.name, profile.sockets, profile.connects_per_s)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what there is, and what to do where that is not enough."""

    level: Level
    what: str
    says: str
    fix: str = ""


@dataclass(frozen=True)
class Plan:
    """The least that a profile takes here, for each of the two ends where that is not said."""

    processes: int
    addresses: int
    memory_bytes: int


def plan(host: Host, need: Need) -> Plan:
    """How many processes each end needs, source addresses, and memory for both."""
    processes = math.ceil(need.sockets / _sockets_a_process(host))
    each = 2 * KERNEL_BYTES + SERVED_BYTES + USER_BYTES
    base = processes * (SERVER_PROCESS_BYTES + GENERATOR_PROCESS_BYTES)
    return Plan(processes, math.ceil(need.sockets / _ports(host)), need.sockets * each + base)


def _sockets_a_process(host: Host) -> int:
    return max(1, host.hard_descriptors - RESERVED_DESCRIPTORS)


def _ports(host: Host) -> int:
    low, high = host.ports
    return max(1, high - low + 1)


def examine(host: Host, need: Need) -> list[Finding]:
    """What the profile needs and whether this host has it. Pure."""
    least = plan(host, need)
    return [
        _descriptors(host, need, least),
        _system_descriptors(host, need),
        _source_ports(host, need, least),
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
    return all(finding.level != "short" for finding in findings)


def _descriptors(host: Host, need: Need, least: Plan) -> Finding:
    says = f"{host.hard_descriptors:,} for a process: {least.processes} of the server, {least.processes} of the swarm"
    wanted = min(host.most_descriptors, math.ceil(need.sockets / host.cores) + RESERVED_DESCRIPTORS)
    fix = f"as root: ulimit -n {wanted}"
    if least.processes > PROCESSES_A_CORE * host.cores:
        return Finding("short", "open files", f"{says}, too many for {_many(host.cores, 'core')}", fix)
    if least.processes > host.cores:
        return Finding("doubt", "open files", f"{says}, on {_many(host.cores, 'core')}", fix)
    return Finding("ok", "open files", says)


def _system_descriptors(host: Host, need: Need) -> Finding:
    wanted = host.system_descriptors_used + 2 * need.sockets + 20 * RESERVED_DESCRIPTORS
    says = f"{host.system_descriptors - host.system_descriptors_used:,} left to all processes together"
    if wanted > host.system_descriptors:
        return Finding("short", "open files, all", says, f"sysctl -w fs.file-max={wanted}")
    return Finding("ok", "open files, all", says)


def _source_ports(host: Host, need: Need, least: Plan) -> Finding:
    """The loopback interface has 16 million addresses, so that ports are never short there."""
    last = f"127.0.{(least.addresses - 1) // 254}.{(least.addresses - 1) % 254 + 1}"
    where = "127.0.0.1 alone" if least.addresses == 1 else f"127.0.0.1 to {last}"
    says = f"{_ports(host):,} for a source address: from {where}"
    if _ports(host) < 10_000:
        return Finding("doubt", "ports", says, "sysctl -w net.ipv4.ip_local_port_range='1024 65535'")
    return Finding("ok", "ports", says)


def _time_wait(host: Host, need: Need, least: Plan) -> Finding:
    """Matters to one run after the other on the same port, and to connections that come and go."""
    often = need.connects_per_s * TIME_WAIT_S > _ports(host) * least.addresses
    if host.time_wait_reuse:
        return Finding(
            "ok",
            "closed ports",
            "are used again after a second" + (" over loopback" if host.time_wait_reuse == 2 else ""),
        )
    says = f"are kept for {TIME_WAIT_S} s"
    return (
        Finding("doubt", "closed ports", says, "sysctl -w net.ipv4.tcp_tw_reuse=2")
        if often
        else Finding("ok", "closed ports", says)
    )


def _backlog(host: Host, need: Need) -> Finding:
    """A server that stands still for a second has a second's connects in its queue."""
    wanted = min(need.sockets, need.connects_per_s)
    says = f"{host.somaxconn:,} may wait to be accepted, {wanted:,} come in a second"
    if host.somaxconn < wanted:
        return Finding("short", "accept queue", says, f"sysctl -w net.core.somaxconn={_rounded(wanted)}")
    return Finding("ok", "accept queue", says)


def _syn_backlog(host: Host, need: Need) -> Finding:
    wanted = min(need.sockets, need.connects_per_s)
    says = f"{host.syn_backlog:,} may be half open"
    if host.syn_backlog < wanted // 4:  # a quarter of a second on the way is far, even for another host
        return Finding("doubt", "handshakes", says, f"sysctl -w net.ipv4.tcp_max_syn_backlog={_rounded(wanted)}")
    return Finding("ok", "handshakes", says)


def _memory(host: Host, least: Plan) -> Finding:
    says = f"{_mib(host.available_bytes)} available, about {_mib(least.memory_bytes)} for both ends"
    if least.memory_bytes > MEMORY_SHARE * host.available_bytes:
        return Finding("short", "memory", says, "free some, or give each end a host of its own")
    return Finding("ok", "memory", says)


def _tcp_memory(host: Host, need: Need) -> Finding:
    if host.tcp_pressure_bytes is None:
        return Finding("doubt", "TCP buffers", "this kernel does not say how many it allows")
    wanted = 2 * need.sockets * BUFFER_BYTES
    says = f"{_mib(host.tcp_pressure_bytes)} before the kernel saves, {_mib(wanted)} if all sockets exchange at once"
    if wanted > host.tcp_pressure_bytes:
        pages = _rounded(wanted // 4096 * 2)
        fix = f"sysctl -w net.ipv4.tcp_mem='{pages} {2 * pages} {4 * pages}'"
        return Finding("doubt", "TCP buffers", says, fix)
    return Finding("ok", "TCP buffers", says)


def _cores(host: Host) -> Finding:
    if host.cores < 2:
        return Finding(
            "doubt", "cores", "1: server and swarm take it from each other", "give each end a host of its own"
        )
    return Finding("ok", "cores", f"{host.cores}: server and swarm can have one each")


def _quiet(host: Host) -> Finding:
    says = f"others use {host.others_cores:.2f} cores, {100 * host.steal:.1f} % is stolen by the hypervisor"
    if host.steal > NOISY_STEAL:
        return Finding("doubt", "quiet", says, "a host that is not shared")
    if host.others_cores > NOISY_CORES:
        return Finding("doubt", "quiet", says, "see in top who that is")
    return Finding("ok", "quiet", says)


def _tracking(host: Host, need: Need) -> list[Finding]:
    """The firewall's memory, where it has one; a kernel that tracks nothing yet may have no rule that asks for it."""
    if host.tracked is None or host.most_tracked is None:
        return []
    wanted = host.tracked + need.sockets
    says = f"{host.most_tracked - host.tracked:,} connections more can be tracked"
    if wanted <= host.most_tracked:
        return [Finding("ok", "firewall", says)]
    level: Level = "short" if host.tracked else "doubt"
    return [Finding(level, "firewall", says, f"sysctl -w net.netfilter.nf_conntrack_max={_rounded(wanted)}")]


def _rounded(number: int) -> int:
    """The next power of two."""
    return 1 << max(0, number - 1).bit_length()


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# What a person sees


def render(host: Host, need: Need, console: Console) -> bool:
    """Show what was found for one profile; whether it fits."""
    findings = examine(host, need)
    is_good = fits(findings)
    title = f"{need.name}: {need.sockets:,} sockets, {need.connects_per_s:,} connects a second"
    _show_table(console, title, [], [[finding.level, finding.what, finding.says] for finding in findings])
    for finding in findings:
        if finding.fix:
            console.print(Text(f"  {finding.what}: {finding.fix}", _COLOURS[finding.level]), soft_wrap=True)
    verdict = "this host can hold it" if is_good else "this host cannot hold it as it is"
    console.print(Text(f"{need.name}: {verdict}", "bold green" if is_good else "bold red"))
    return is_good


def render_all(host: Host, needs: Sequence[Need], console: Console) -> None:
    """One line for each profile."""
    rows = [_row(host, need) for need in needs]
    head = ["", "profile", "sockets", "processes of each end", "addresses", "memory", "because of"]
    _show_table(console, "What this host can hold", head, rows, numbers=range(2, 6))


def _row(host: Host, need: Need) -> list[str]:
    findings, least = examine(host, need), plan(host, need)
    worst = next((level for level in ("short", "doubt") if any(each.level == level for each in findings)), "ok")
    reasons = ", ".join(each.what for each in findings if each.level == worst != "ok")
    figures = [f"{need.sockets:,}", str(least.processes), str(least.addresses), _mib(least.memory_bytes)]
    return [worst, need.name, *figures, reasons]


def _show_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()
) -> None:
    """The first column is a level: in its colour on a terminal."""
    table = Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD if head else None,
        show_header=bool(head),
    )
    for column in range(len(rows[0])):
        justify: Literal["left", "right"] = "right" if column in numbers else "left"
        table.add_column(head[column] if head else "", justify=justify, no_wrap=not console.is_terminal)
    for level, *cells in rows:
        table.add_row(Text(level, _COLOURS[level]), *map(escape, cells))  # type: ignore[index]
    console.print(table)


def main(argv: Sequence[str]) -> int:
    """Examine this host for the profile that `argv` names, or for all; return the exit status."""
    parser = argparse.ArgumentParser(prog="loadtests doctor", description="Say what this host can hold.")
    parser.add_argument("profile", metavar="PROFILE", nargs="?", help=f"one of {', '.join(PROFILES)}")
    name = parser.parse_args(argv).profile
    if name is not None and name not in PROFILES:
        print(f"loadtests: there is no profile {name!r}: expected one of {', '.join(PROFILES)}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    host = look()
    if name is not None:
        return 0 if render(host, Need.of(PROFILES[name]), console) else 1
    render_all(host, [Need.of(profile) for profile in PROFILES.values()], console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
