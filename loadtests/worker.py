"""`loadtests worker`: a part of the swarm, for a run on another host."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from loadtests.environment import raise_nofile_limit
from loadtests.processes import python_module, terminated_as_interrupted
from loadtests.run_options import MASTER_PORT, at_least, host_and_port, own_users
from loadtests.swarm import LOCUST_ENVIRONMENT, SCENARIOS, STEERING

__all__ = ["add_arguments", "main", "work"]

STOP_PATIENCE_S = 20.0


def add_arguments(worker: argparse.ArgumentParser) -> None:
    worker.add_argument(
        "--master", type=host_and_port, required=True, metavar="HOST[:PORT]",
        help=f"of the run (default port {MASTER_PORT})",
    )  # fmt: skip
    worker.add_argument("--processes", type=at_least(1, int), default=1, metavar="N", help="(default 1)")
    worker.add_argument("--file", type=Path, metavar="FILE", help="the Locust file that the run was given")


def main(arguments: argparse.Namespace) -> int:
    """Do as work() does."""
    file = own_users(arguments.file) if arguments.file is not None else None
    return work(arguments.master, arguments.processes, file)


def work(master: tuple[str, int], processes: int, file: Path | None) -> int:
    """Be workers of `master` until it has no more work; return Locust's exit status. Ctrl-C and TERM end it."""
    raise_nofile_limit()
    options = {"-f": f"{file or SCENARIOS},{STEERING}", "--master-host": master[0], "--master-port": master[1]}
    several = {"--processes": processes} if processes > 1 else {}
    words = [str(word) for option in {**options, **several}.items() for word in option]
    command = python_module("locust", "--worker", "--headless", *words)
    environment = {**os.environ, **LOCUST_ENVIRONMENT}
    with (
        terminated_as_interrupted(),
        subprocess.Popen(command, stdout=sys.stderr, start_new_session=True, env=environment) as locust,
    ):
        try:
            return locust.wait()
        finally:
            _stop(locust)


def _stop(locust: subprocess.Popen[bytes]) -> None:
    if locust.poll() is None:
        locust.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            locust.wait(STOP_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(locust.pid, signal.SIGKILL)
