"""`loadtests worker`: joins the swarm of a run on another host.

Exit status 0 once the run is over; 1 if the master is lost, or if no Locust replies at its address; 2 if nothing
listens there in time, or if the master refuses the worker.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from loadtests.commands.load_options import MASTER_PORT, at_least, checked_locustfile, host_and_port
from loadtests.orchestration.remote_worker import MASTER_TIMEOUT_S, run_worker

__all__ = ["add_arguments", "main"]

DESCRIPTION = "Join the swarm of a run on another host, which was started with `loadtests run --master`."


@dataclass(frozen=True)
class WorkerRequest:
    """The arguments of `loadtests worker`.

    Attributes:
        master: (address, port) of the run's master.
        master_timeout_s: how long to try to reach it.
        file: the Locust file of the run; None: the users of the profiles.
    """

    master: tuple[str, int]
    master_timeout_s: int
    processes: int
    file: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loadtests worker`."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--master", type=host_and_port, required=True, metavar="HOST[:PORT]",
        help=f"address of the run's master (default port {MASTER_PORT})",
    )  # fmt: skip
    parser.add_argument(
        "--master-timeout", type=at_least(1, int), default=MASTER_TIMEOUT_S, metavar="SECONDS",
        help=f"how long to try to reach the master, which may start later (default {MASTER_TIMEOUT_S})",
    )  # fmt: skip
    parser.add_argument("--processes", type=at_least(1, int), default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="the same Locust file as the run's --file, if it has one"
    )


def main(arguments: argparse.Namespace) -> int:
    """Take part in the run, and return the exit status of Locust."""
    request = WorkerRequest(
        master=arguments.master,
        master_timeout_s=arguments.master_timeout,
        processes=arguments.processes,
        file=checked_locustfile(arguments.file) if arguments.file is not None else None,
    )
    return run_worker(request.master, request.processes, request.file, request.master_timeout_s)
