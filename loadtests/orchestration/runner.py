"""Makes one run, from the start of the server to run.json.

    start the server -> wait until it is ready -> start sampler and swarm -> stop all -> figures, verdict, files

Ctrl-C ends the swarm early; the measurements made by then are kept and reported.
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
from loadtests.host.cpu_affinity import Cores, split_cores
from loadtests.host.subprocesses import START_PATIENCE_S, terminated_as_interrupted
from loadtests.orchestration.finalize import Reserve, finalize
from loadtests.orchestration.swarm import Spread, Swarm, processes_for
from loadtests.results import store
from loadtests.servers.readiness import Probe
from loadtests.servers.target import Server, Target, local_target
from loadtests.workloads.profiles import Profile

__all__ = ["Options", "Target", "execute"]


@dataclass(frozen=True)
class Options:
    """How a run is made; not a part of its workload.

    Attributes:
        pin: give server and generator separate cores.
        processes: of the generator; 0: as many as the sockets need.
        master: (address, port) on which the master listens for workers of other hosts; None: no such workers.
        expect_workers: workers to wait for. expect_workers_s: how long to wait for them.
        start_timeout_s: how long a server that the run starts may take until it replies.
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
    """Make a run; return it, and whether it was interrupted.

    Ctrl-C, TERM and HUP end the swarm early. No process of the run is left behind, whatever happens. A run that could
    not be written is returned too: see store.is_kept().

    Args:
        target: the server; None: the profile's application on a gserver that is started here.
        results_folder: parent of the folder of the run; created if needed.

    Raises:
        NotAnswering: the server does not reply.
        ResultError: the swarm left no recording.
        OSError: the folder cannot be created.
        ValueError: no such process to sample, no such address for the master, or workers that do not join.
        KeyboardInterrupt: interrupted before anything was measured.
    """
    options = options or Options()
    if target and target.pid is not None and not psutil.pid_exists(target.pid):
        raise ValueError(f"--server-pid is {target.pid}: there is no such process")
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
            with contextlib.suppress(OSError):  # kept if it has files: they may show what went wrong
                folder.rmdir()
        return finalize(swarm, reserve, started_at.isoformat(timespec="seconds"), label), swarm.interrupted


def _spread(profile: Profile, options: Options, limit: int, workers: int) -> Spread:
    """Distribute the swarm over processes and cores. workers: of the server; 0: it is not started here."""
    available = sorted(os.sched_getaffinity(0))
    cores = split_cores(available, workers) if options.pin and workers else Cores()
    if options.master is not None:
        return Spread(
            master=options.master, workers=options.expect_workers, patience_s=options.expect_workers_s, cores=cores
        )
    processes = options.processes or processes_for(profile, limit, len(cores.generator or available))
    # With more processes than cores, the processes would wait for each other while the server's cores are idle.
    return Spread(processes, cores=cores if processes <= len(cores.generator) else Cores())


def _check_listenable(host: str, port: int) -> None:
    """ValueError if a master cannot listen at this address, before anything is started."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # error.strerror may contain the address, which Python adds.
        cause = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ValueError(f"--bind {shown}: {cause}") from None


def _new_folder(parent: Path, name: str) -> Path:
    """Create a folder; its name is unique even if several runs start in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in [parent / name, *(parent / f"{name}-{number}" for number in range(2, 100))]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"{parent / name}: a hundred runs began in this second")
