"""Runs workers for a master on another host: waits for the master, then starts Locust."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from loadtests.host.environment import raise_nofile_limit
from loadtests.host.subprocesses import python_module, terminated_as_interrupted
from loadtests.orchestration.swarm import LOAD_SHAPE, LOCUST_ENVIRONMENT, PROFILE_USERS

__all__ = ["MASTER_TIMEOUT_S", "run_worker"]

STOP_PATIENCE_S = 20.0
MASTER_TIMEOUT_S = 120
RETRY_S = 1.0
# Of one attempt to connect: a host that is down does not reply.
CONNECT_TIMEOUT_S = 5.0


def run_worker(
    master: tuple[str, int], processes: int, file: Path | None, master_timeout_s: int = MASTER_TIMEOUT_S
) -> int:
    """Start `processes` Locust workers, wait until the master ends them, and return Locust's exit status.

    Ctrl-C and TERM end them. OSError if the master cannot be reached within `master_timeout_s` seconds.

    file: a Locust file; None: the users of the profiles.
    """
    raise_nofile_limit()
    options = {
        "-f": f"{file or PROFILE_USERS},{LOAD_SHAPE}",
        "--master-host": master[0],
        "--master-port": master[1],
        "--master-timeout": master_timeout_s,
    }
    several = {"--processes": processes} if processes > 1 else {}
    words = [str(word) for option in {**options, **several}.items() for word in option]
    command = python_module("locust", "--worker", "--headless", *words)
    environment = {**os.environ, **LOCUST_ENVIRONMENT}
    with terminated_as_interrupted():
        _await_master(master, master_timeout_s)
        with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True, env=environment) as locust:
            try:
                return locust.wait()
            finally:
                _stop(locust)


def _await_master(master: tuple[str, int], timeout_s: int) -> None:
    """Wait until the master listens. Locust would try for five minutes, and then print a traceback."""
    deadline = time.monotonic() + timeout_s
    is_first = True
    while True:
        left_s = deadline - time.monotonic()
        try:
            socket.create_connection(master, max(0.1, min(CONNECT_TIMEOUT_S, left_s))).close()
            return
        except OSError as error:
            cause = error.strerror or str(error)
        shown = "[{}]:{}".format(*master) if ":" in master[0] else "{}:{}".format(*master)
        if time.monotonic() + RETRY_S > deadline:
            raise OSError(f"no master at {shown} within {timeout_s} s: {cause}")
        if is_first:
            print(f"loadtests: waiting for the master at {shown}: {cause}", file=sys.stderr, flush=True)
            is_first = False
        time.sleep(RETRY_S)


def _stop(locust: subprocess.Popen[bytes]) -> None:
    if locust.poll() is None:
        locust.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            locust.wait(STOP_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(locust.pid, signal.SIGKILL)
