"""The checks of a host: with invented limits, and once on this host."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from loadtests.commands.doctor import render, render_all
from loadtests.host.capacity import Host, inspect_host
from loadtests.host.capacity_check import Finding, Need, examine, fits, plan

ROOMY = Host(
    cores=8,
    soft_descriptors=1024,
    hard_descriptors=1_048_576,
    most_descriptors=1_048_576,
    system_descriptors=10_000_000,
    system_descriptors_used=1000,
    ports=(32768, 60999),
    somaxconn=4096,
    syn_backlog=4096,
    available_bytes=64 * 2**30,
    tcp_pressure_bytes=4 * 2**30,
    time_wait_reuse=2,
    tracked=None,
    most_tracked=None,
    others_cores=0.0,
    steal=0.0,
)
C100K = Need("c100k", 100_000, 2000)


def found(what: str, need: Need = C100K, **facts: Any) -> Finding:
    host = dataclasses.replace(ROOMY, **facts)
    return next(finding for finding in examine(host, need) if finding.check == what)


def test_a_roomy_host_holds_a_hundred_thousand() -> None:
    findings = examine(ROOMY, C100K)

    assert {finding.level for finding in findings} == {"ok"}
    assert fits(findings)
    assert not any(finding.fix for finding in findings)


@pytest.mark.parametrize(
    ("what", "facts", "level", "fix"),
    [
        ("open files", {"hard_descriptors": 20_000, "cores": 2}, "doubt", "as root: ulimit -n 50200"),
        ("open files", {"hard_descriptors": 4096, "cores": 2}, "short", "as root: ulimit -n 50200"),
        ("open files, all", {"system_descriptors": 150_000}, "short", "sysctl -w fs.file-max=205000"),
        ("ports", {"ports": (60000, 61000)}, "doubt", "sysctl -w net.ipv4.ip_local_port_range='1024 65535'"),
        ("closed ports", {"time_wait_reuse": 0}, "doubt", "sysctl -w net.ipv4.tcp_tw_reuse=2"),
        ("accept queue", {"somaxconn": 128}, "short", "sysctl -w net.core.somaxconn=2048"),
        ("handshakes", {"syn_backlog": 256}, "doubt", "sysctl -w net.ipv4.tcp_max_syn_backlog=2048"),
        ("memory", {"available_bytes": 2**30}, "short", "free some, or run server and swarm on separate hosts"),
        ("cores", {"cores": 1}, "doubt", "run server and swarm on separate hosts"),
        ("quiet", {"others_cores": 0.5}, "doubt", "top shows those processes"),
        ("quiet", {"steal": 0.1}, "doubt", "use a host that is not shared"),
        (
            "TCP buffers",
            {"tcp_pressure_bytes": 100 * 2**20},
            "doubt",
            "sysctl -w net.ipv4.tcp_mem='524288 1048576 2097152'",
        ),
        (
            "firewall",
            {"tracked": 10, "most_tracked": 65536},
            "short",
            "sysctl -w net.netfilter.nf_conntrack_max=131072",
        ),
        (
            "firewall",
            {"tracked": 0, "most_tracked": 65536},
            "doubt",
            "sysctl -w net.netfilter.nf_conntrack_max=131072",
        ),
    ],
)
def test_a_limit_that_is_too_low_is_named_with_the_command_that_raises_it(
    what: str, facts: dict[str, Any], level: str, fix: str
) -> None:
    finding = found(what, **facts)

    assert (finding.level, finding.fix) == (level, fix)
    assert finding.state
    assert fits(examine(dataclasses.replace(ROOMY, **facts), C100K)) == (level != "short")


@pytest.mark.parametrize(
    ("hard", "sockets", "processes"), [(20_000, 100_000, 6), (20_000, 19_800, 1), (20_000, 19_801, 2), (1024, 2000, 3)]
)
def test_server_and_swarm_get_the_processes_that_the_limit_of_open_files_requires(
    hard: int, sockets: int, processes: int
) -> None:
    host = dataclasses.replace(ROOMY, hard_descriptors=hard)

    assert plan(host, Need("x", sockets, 100)).processes == processes


def test_there_are_enough_source_addresses_for_the_ports() -> None:
    assert plan(ROOMY, C100K).addresses == 4  # 28,232 ports each
    assert found("ports").state == "28,232 per source address: connects from 127.0.0.1 to 127.0.0.4"
    assert found("ports", Need("x", 28_232, 100)).state.endswith("from 127.0.0.1 alone")
    assert found("ports", Need("x", 28_232 * 300, 100)).state.endswith("from 127.0.0.1 to 127.0.1.46")


def test_without_a_firewall_there_is_no_check_of_it() -> None:
    assert "firewall" not in {finding.check for finding in examine(ROOMY, C100K)}
    assert found("firewall", tracked=5, most_tracked=262_144).level == "ok"


def test_without_a_terminal_there_are_no_colours() -> None:
    output = io.StringIO()
    host = dataclasses.replace(ROOMY, somaxconn=128)
    assert not render(host, C100K, Console(file=output, width=160))
    shown = output.getvalue()

    assert "\x1b" not in shown
    assert "short  accept queue     128 connections at most, 2,000 arrive per second" in shown
    assert "  accept queue: sysctl -w net.core.somaxconn=2048\n" in shown
    assert shown.endswith("c100k: this host cannot hold it with its present limits\n")


def test_a_command_is_never_broken_however_narrow_the_terminal() -> None:
    output = io.StringIO()
    host = dataclasses.replace(ROOMY, tcp_pressure_bytes=100 * 2**20)
    assert render(host, C100K, Console(file=output, width=40, force_terminal=True, color_system=None))

    assert "sysctl -w net.ipv4.tcp_mem='524288 1048576 2097152'" in output.getvalue()


def test_every_profile_has_a_line_with_the_reason() -> None:
    output = io.StringIO()
    host = dataclasses.replace(ROOMY, somaxconn=1000, others_cores=1.0)
    render_all(host, [C100K, Need("tiny", 10, 10)], Console(file=output, width=160))
    lines = [line.split() for line in output.getvalue().splitlines() if line.split()[:1] in (["short"], ["doubt"])]

    assert [line[:5] for line in lines] == [
        ["short", "c100k", "100,000", "1", "4"],
        ["doubt", "tiny", "10", "1", "1"],
    ]
    assert [line[-2:] for line in lines] == [["accept", "queue"], ["MiB", "quiet"]]


def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_this_host_can_hold_the_smallest_profile() -> None:
    examined = run_doctor("smoke")

    assert (examined.returncode, examined.stderr) == (0, "")
    assert examined.stdout.endswith("smoke: this host can hold it\n")


def test_an_unknown_profile_is_one_line() -> None:
    examined = run_doctor("smokey")

    assert (examined.returncode, examined.stdout) == (2, "")
    assert examined.stderr.startswith("loadtests: there is no profile 'smokey': expected one of smoke, ")
    assert examined.stderr.count("\n") == 1


def test_other_processes_that_use_a_core_are_noticed() -> None:
    before = inspect_host(0.05)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        during = inspect_host(0.5)
        busy.kill()

    assert during.others_cores > 0.3
    assert before.cores == during.cores >= 1
    assert before.hard_descriptors >= before.soft_descriptors
