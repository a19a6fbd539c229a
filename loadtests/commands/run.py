"""`loadtests run NAME`: runs a profile, keeps the run in a folder, and prints its summary.

Exit status 0; 1 if something failed: exchanges, the code of the users, or the server of a valid run fell short of the
load; 2 if the run could not be made, or could not be kept; 3 if nothing failed, but the figures cannot be believed; 130
for Ctrl-C. The summary is printed even if the disk is too full to keep the run.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from loadtests.commands.load_options import (
    MASTER_PORT,
    LoadOptions,
    add_load_options,
    add_start_timeout,
    at_least,
    changed_profile,
    host_and_port,
    load_options,
    profile_names,
)
from loadtests.exit_status import EXIT_FAILURE, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_USAGE
from loadtests.host.subprocesses import START_PATIENCE_S
from loadtests.orchestration.runner import Options, Target, execute
from loadtests.report import render_summary
from loadtests.results.store import Run, is_kept
from loadtests.text_encoding import as_text
from loadtests.url import is_tls, parse_host

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Run a profile on a server, keep the run in a folder, and print its summary."
BIND = ("0.0.0.0", MASTER_PORT)
EXPECT_WORKERS_S = 120


@dataclass(frozen=True)
class RunRequest:
    """The arguments of `loadtests run`.

    Attributes:
        workers: the minimum for a server that is started here; None: that of the profile.
        target: the server at --host; None: one is started here.
        results: the parent folder of the run.
    """

    profile: str
    load: LoadOptions
    workers: int | None
    target: Target | None
    options: Options
    results: Path
    label: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests run`."""
    parser.usage, parser.description = "%(prog)s [options] NAME", DESCRIPTION
    parser.add_argument("profile", metavar="NAME", help=profile_names())
    add_load_options(parser)
    own = parser.add_argument_group("server that is started here (default)")
    own.add_argument("--workers", type=at_least(1, int), metavar="N", help="minimum number of workers of the server")
    add_start_timeout(own)
    running = parser.add_argument_group("server that is already running")
    running.add_argument("--host", metavar="tcp://HOST:PORT", help="address of the server; tls://HOST:PORT for TLS")
    running.add_argument(
        "--server-pid", type=at_least(1, int), metavar="PID", help="sample this process and its children"
    )
    running.add_argument("--stats-socket", metavar="PATH", help="read the counters of a gserver from its stats socket")
    running.add_argument(
        "--sampler", type=host_and_port, metavar="HOST:PORT",
        help="take samples from `loadtests sample --listen` on the server's host",
    )  # fmt: skip
    swarm = parser.add_argument_group("swarm (Locust)")
    swarm.add_argument(
        "--processes", type=at_least(1, int), default=0, metavar="N", help="processes (default: as many as needed)"
    )
    swarm.add_argument("--no-pin", action="store_true", help="do not give server and swarm separate cores")
    swarm.add_argument("--master", action="store_true", help="use the workers of `loadtests worker` on other hosts")
    swarm.add_argument(
        "--bind", type=host_and_port, metavar="HOST:PORT",
        help=f"with --master: address to listen on (default {BIND[0]}:{BIND[1]})",
    )  # fmt: skip
    swarm.add_argument(
        "--expect-workers", type=at_least(1, int), metavar="N", help="with --master: workers to wait for (default 1)"
    )
    swarm.add_argument(
        "--expect-workers-max-wait", type=at_least(1, int), metavar="SECONDS",
        help=f"with --master: how long to wait for them (default {EXPECT_WORKERS_S})",
    )  # fmt: skip
    results = parser.add_argument_group("results")
    results.add_argument("--label", type=as_text, default="", metavar="TEXT", help="a note that is kept with the run")
    results.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="parent of the folder (default results)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Make the run, print its summary, and return the exit status."""
    return _run(
        RunRequest(
            profile=arguments.profile,
            load=load_options(arguments),
            workers=arguments.workers,
            target=_target(arguments),
            options=_options(arguments),
            results=arguments.results,
            label=arguments.label,
        )
    )


def _run(request: RunRequest) -> int:
    profile = changed_profile(request.profile, request.load, request.workers, request.target is None)
    run, interrupted = execute(profile, request.target, request.results, request.label, request.options)
    print(f"\n{render_summary(run)}\n{_kept_files(run)}")
    if interrupted:
        return EXIT_INTERRUPTED
    if not is_kept(run):
        return EXIT_USAGE
    if run.errors or (run.verdict.is_valid and run.verdict.shortfalls):
        return EXIT_FAILURE
    return 0 if run.verdict.is_valid else EXIT_INCONCLUSIVE


def _kept_files(run: Run) -> str:
    """A line for the folder and one for the report, if they were written."""
    report = run.path / "report.md"
    found = {"run   ": run.path if is_kept(run) else None, "report": report if report.exists() else None}
    return "".join(f"\n  {title}  {path}" for title, path in found.items() if path)


def _options(arguments: argparse.Namespace) -> Options:
    start_timeout_s = arguments.start_timeout or START_PATIENCE_S
    if not arguments.master:
        for option in ("bind", "expect_workers", "expect_workers_max_wait"):
            if getattr(arguments, option):
                raise ValueError(f"--{option.replace('_', '-')} needs --master")
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
                raise ValueError(f"--{option.replace('_', '-')} needs --host")
        return None
    if arguments.start_timeout:
        raise ValueError("--start-timeout is for a server that is started here: it cannot be used with --host")
    return Target(
        parse_host(arguments.host),
        pid=arguments.server_pid,
        sampler=arguments.sampler,
        stats_socket=arguments.stats_socket,
        scheme="tls" if is_tls(arguments.host) else "tcp",
    )
