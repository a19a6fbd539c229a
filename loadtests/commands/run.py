"""`loadtests run NAME`: carry out a run, keep it in a folder, and print its summary.

Exit status 0; 1 if something failed: attempts, the code of the users, or the server of a valid run fell short; 2
if the run could not be carried out, or was carried out and could not be kept; 3 if nothing failed, but the figures
cannot be believed; 130 for Ctrl-C. The figures are printed also where the disk had no room for the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from loadtests.commands.load_options import MASTER_PORT, add_run_options, at_least, host_and_port, profile_of
from loadtests.host.subprocesses import START_PATIENCE_S
from loadtests.orchestration.runner import Options, Target, execute
from loadtests.report import render_summary
from loadtests.results.store import Run, is_kept
from loadtests.text_encoding import as_text
from loadtests.url import is_tls, parse_host
from loadtests.workloads.profiles import PROFILES

__all__ = ["add_arguments", "main"]

EXIT_FAILURES = 1
EXIT_NOT_KEPT = 2
EXIT_DOUBTFUL = 3
EXIT_INTERRUPTED = 130
BIND = ("0.0.0.0", MASTER_PORT)
EXPECT_WORKERS_S = 120


def add_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("profile", metavar="NAME", help=f"one of {', '.join(PROFILES)}")
    add_run_options(run)
    server = run.add_argument_group("the server")
    server.add_argument("--workers", type=at_least(1, int), metavar="N", help="of the one that is started, at least")
    server.add_argument("--host", metavar="tcp://HOST:PORT", help="test one that runs already; also tls://HOST:PORT")
    server.add_argument("--server-pid", type=at_least(1, int), metavar="PID", help="its process, to sample it")
    server.add_argument("--stats-socket", metavar="PATH", help="what gserver's --stats-socket is")
    server.add_argument(
        "--sampler", type=host_and_port, metavar="HOST:PORT", help="a `loadtests sample --listen` on its machine"
    )
    swarm = run.add_argument_group("the swarm")
    swarm.add_argument(
        "--processes", type=at_least(1, int), default=0, metavar="N", help="(default: as many as it takes)"
    )
    swarm.add_argument("--no-pin", action="store_true", help="leave server and swarm on all cores")
    swarm.add_argument("--master", action="store_true", help="swarm from other hosts: `loadtests worker` on each")
    swarm.add_argument(
        "--bind", type=host_and_port, metavar="HOST:PORT",
        help=f"where they find this one (default {BIND[0]}:{BIND[1]})",
    )  # fmt: skip
    swarm.add_argument("--expect-workers", type=at_least(1, int), metavar="N", help="how many there are (default 1)")
    swarm.add_argument(
        "--expect-workers-max-wait", type=at_least(1, int), metavar="SECONDS",
        help=f"how long the run waits for them (default {EXPECT_WORKERS_S})",
    )  # fmt: skip
    run.add_argument("--label", type=as_text, default="", metavar="TEXT", help="what this run is about")
    run.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default results)")


def main(arguments: argparse.Namespace) -> int:
    """Carry it out, print its summary, and return the exit status."""
    profile, target = profile_of(arguments, arguments.profile), _target(arguments)
    options = _options(arguments)
    run, interrupted = execute(profile, target, arguments.results, arguments.label, options)
    print(f"\n{render_summary(run)}\n{_where(run)}")
    if interrupted:
        return EXIT_INTERRUPTED
    if not is_kept(run):
        return EXIT_NOT_KEPT
    if run.errors or (run.verdict.is_valid and run.verdict.shortfalls):
        return EXIT_FAILURES
    return 0 if run.verdict.is_valid else EXIT_DOUBTFUL


def _where(run: Run) -> str:
    """What was kept, and where; a line for each."""
    report = run.path / "report.md"
    found = {"run   ": run.path if is_kept(run) else None, "report": report if report.exists() else None}
    return "".join(f"\n  {what}  {path}" for what, path in found.items() if path)


def _options(arguments: argparse.Namespace) -> Options:
    start_timeout_s = arguments.start_timeout or START_PATIENCE_S
    if not arguments.master:
        for option in ("bind", "expect_workers", "expect_workers_max_wait"):
            if getattr(arguments, option):
                raise ValueError(f"--{option.replace('_', '-')} is about the workers of a --master, and there is none")
        return Options(pin=not arguments.no_pin, processes=arguments.processes, start_timeout_s=start_timeout_s)
    if arguments.processes:
        raise ValueError("--processes is for a swarm on this host: with --master, give it to each `loadtests worker`")
    return Options(
        pin=not arguments.no_pin,
        master=arguments.bind or BIND,
        expect_workers=arguments.expect_workers or 1,
        expect_workers_s=arguments.expect_workers_max_wait or EXPECT_WORKERS_S,
        start_timeout_s=start_timeout_s,
    )


def _target(arguments: argparse.Namespace) -> Target | None:
    if not arguments.host:
        for option in ("server_pid", "stats_socket", "sampler"):
            if getattr(arguments, option):
                name = f"--{option.replace('_', '-')}"
                raise ValueError(f"{name} says how to sample what runs at --host, and there is no --host")
        return None
    if arguments.start_timeout:
        raise ValueError("--start-timeout is for a server that is started here, and the one at --host runs already")
    return Target(
        parse_host(arguments.host),
        pid=arguments.server_pid,
        sampler=arguments.sampler,
        stats_socket=arguments.stats_socket,
        scheme="tls" if is_tls(arguments.host) else "tcp",
    )
