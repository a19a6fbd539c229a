"""`loadtests run`: a server, a sampler beside it, a swarm on it, and the folder of the run.

    start the server -> probe it -> sample it -> swarm -> stop all -> figures, verdict, report.md, run.json

Ctrl-C ends the swarm early; what was measured by then is kept and reported.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.host import environment
from loadtests.host.cpu_affinity import Cores, shared_out
from loadtests.host.subprocesses import START_PATIENCE_S, terminated_as_interrupted
from loadtests.orchestration.finalize import Reserve, concluded
from loadtests.orchestration.swarm import Spread, Swarm, processes_for
from loadtests.results import store
from loadtests.servers.readiness import Probe
from loadtests.servers.target import Server, Target, local_target
from loadtests.workloads.profiles import Profile

__all__ = ["Options", "Target", "execute"]


@dataclass(frozen=True)
class Options:
    """How a run is carried out, which is no part of its workload.

    Attributes:
        pin: whether server and generator get cores of their own.
        processes: of the generator; 0: as many as the sockets need.
        master: where the workers of other hosts find their master; expect_workers: how many are waited for, and
            for how many seconds: expect_workers_s.
        start_timeout_s: how long a server that the run starts may take until it answers.
    """

    pin: bool = True
    processes: int = 0
    master: tuple[str, int] | None = None
    expect_workers: int = 0
    expect_workers_s: int = 0
    start_timeout_s: float = START_PATIENCE_S


def execute(
    profile: Profile,
    target: Target | None,
    results_folder: Path,
    label: str,
    options: Options | None = None,
) -> tuple[store.Run, bool]:
    """Carry out a run; return it, and whether it was interrupted.

    NotAnswering if there is no server to test, ResultError if the swarm left nothing, OSError for a folder that cannot
    be made, ValueError for a process to sample that is none, for a master's address that cannot be had and for
    workers that do not come, KeyboardInterrupt if nothing had been measured by then.
    Ctrl-C, TERM and HUP all end the swarm; whatever happens, no process of the run is left behind. A run that was made
    and could not be written is returned all the same: results.is_kept() tells.
    """
    options = options or Options()
    if target and target.pid is not None and not psutil.pid_exists(target.pid):
        raise ValueError(f"--server-pid is {target.pid}, and there is no such process")
    if options.master is not None:
        _check_listenable(*options.master)
    probe = Probe.of(profile, target is not None and target.scheme == "tls")
    limit = environment.raise_nofile_limit()
    started_at = datetime.datetime.now(datetime.UTC)
    folder = _new_folder(results_folder, f"{started_at:%Y%m%dT%H%M%SZ}-{profile.name}")
    with tempfile.TemporaryDirectory(prefix="loadtests-") as work:
        reserve = Reserve(folder)
        target = target or local_target(profile, Path(work))
        spread = _spread(profile, options, limit, (target.workers or 1) if target.command else 0)
        log = folder / "server.log"
        server = Server(target, log, cores=spread.cores.server, patience_s=options.start_timeout_s)
        swarm = Swarm(profile, folder, Path(work), server, spread)
        try:
            with terminated_as_interrupted(), contextlib.ExitStack() as stack:
                server.start(probe, stack)
                swarm.run(stack)
        finally:
            reserve.free_if_alone()
            with contextlib.suppress(OSError):  # not if there is anything in it, which may say what went wrong
                folder.rmdir()
        return concluded(swarm, reserve, started_at.isoformat(timespec="seconds"), label), swarm.interrupted


def _spread(profile: Profile, options: Options, limit: int, workers: int) -> Spread:
    """How the swarm is spread over processes and cores; workers: of a server on this host, 0 if it is elsewhere."""
    available = sorted(os.sched_getaffinity(0))
    cores = shared_out(available, workers) if options.pin and workers else Cores()
    if options.master is not None:
        return Spread(
            master=options.master, workers=options.expect_workers, patience_s=options.expect_workers_s, cores=cores
        )
    processes = options.processes or processes_for(profile, limit, len(cores.generator or available))
    # More processes than cores would wait for each other there, while the server's cores are free.
    return Spread(processes, cores=cores if processes <= len(cores.generator) else Cores())


def _check_listenable(host: str, port: int) -> None:
    """Before anything is started for a master that could not listen."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # Python adds words of its own about the address to those of the system.
        cause = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ValueError(f"--bind {shown}: {cause}") from None


def _new_folder(parent: Path, name: str) -> Path:
    """A folder that nobody else has, even if several runs begin in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in [parent / name, *(parent / f"{name}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"{parent / name}: a hundred runs began in this second")
