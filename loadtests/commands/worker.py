"""`loadtests worker`: a part of the swarm, for a run on another host.

Exit status 0 once the run is over; 1 if its master cannot be reached or is lost; 2 if the master refuses the worker.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from loadtests.commands.load_options import MASTER_PORT, at_least, host_and_port, own_users
from loadtests.host.environment import raise_nofile_limit
from loadtests.host.subprocesses import python_module, terminated_as_interrupted
from loadtests.orchestration.swarm import LOAD_SHAPE, LOCUST_ENVIRONMENT, PROFILE_USERS

__all__ = ["add_arguments", "main", "work"]

STOP_PATIENCE_S = 20.0
MASTER_TIMEOUT_S = 120
TRIED_EVERY_S = 1.0
# For one attempt to connect, which a host that is not there does not answer.
CONNECT_PATIENCE_S = 5.0


def add_arguments(worker: argparse.ArgumentParser) -> None:
    worker.add_argument(
        "--master", type=host_and_port, required=True, metavar="HOST[:PORT]",
        help=f"of the run (default port {MASTER_PORT})",
    )  # fmt: skip
    worker.add_argument(
        "--master-timeout", type=at_least(1, int), default=MASTER_TIMEOUT_S, metavar="SECONDS",
        help=f"how long it is tried to reach the master, which may start later (default {MASTER_TIMEOUT_S})",
    )  # fmt: skip
    worker.add_argument("--processes", type=at_least(1, int), default=1, metavar="N", help="(default 1)")
    worker.add_argument("--file", type=Path, metavar="FILE", help="the Locust file that the run was given")


def main(arguments: argparse.Namespace) -> int:
    """Do as work() does."""
    file = own_users(arguments.file) if arguments.file is not None else None
    return work(arguments.master, arguments.processes, file, arguments.master_timeout)


def work(master: tuple[str, int], processes: int, file: Path | None, patience_s: int = MASTER_TIMEOUT_S) -> int:
    """Be workers of `master` until it has no more work; return Locust's exit status. Ctrl-C and TERM end it.

    OSError if the master cannot be reached within `patience_s`.
    """
    raise_nofile_limit()
    options = {
        "-f": f"{file or PROFILE_USERS},{LOAD_SHAPE}",
        "--master-host": master[0],
        "--master-port": master[1],
        "--master-timeout": patience_s,
    }
    several = {"--processes": processes} if processes > 1 else {}
    words = [str(word) for option in {**options, **several}.items() for word in option]
    command = python_module("locust", "--worker", "--headless", *words)
    environment = {**os.environ, **LOCUST_ENVIRONMENT}
    with terminated_as_interrupted():
        _await_master(master, patience_s)
        with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True, env=environment) as locust:
            try:
                return locust.wait()
            finally:
                _stop(locust)


def _await_master(master: tuple[str, int], patience_s: int) -> None:
    """Until something listens there: Locust would try for five minutes, and end with a traceback."""
    deadline = time.monotonic() + patience_s
    is_first = True
    while True:
        left_s = deadline - time.monotonic()
        try:
            socket.create_connection(master, max(0.1, min(CONNECT_PATIENCE_S, left_s))).close()
            return
        except OSError as error:
            cause = error.strerror or str(error)
        shown = "[{}]:{}".format(*master) if ":" in master[0] else "{}:{}".format(*master)
        if time.monotonic() + TRIED_EVERY_S > deadline:
            raise OSError(f"no master at {shown} within {patience_s} s: {cause}")
        if is_first:
            print(f"loadtests: waiting for the master at {shown}: {cause}", file=sys.stderr, flush=True)
            is_first = False
        time.sleep(TRIED_EVERY_S)


def _stop(locust: subprocess.Popen[bytes]) -> None:
    if locust.poll() is None:
        locust.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            locust.wait(STOP_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(locust.pid, signal.SIGKILL)
