"""Prepares the server of a spec: compiles or builds it once, so that it can be started for each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.host.environment import hard_nofile_limit
from loadtests.host.subprocesses import free_port, python_module
from loadtests.servers.git_build import build, builds_cache
from loadtests.servers.peer_commands import peer_command
from loadtests.servers.spec import Spec, parse_command
from loadtests.servers.target import Target, server_words, workers_for
from loadtests.servers.toolchain import Toolchain, cache_folder
from loadtests.workloads.profiles import Profile

__all__ = ["PreparedServer", "prepare_server"]


@dataclass(frozen=True)
class PreparedServer:
    """A server that can be started.

    Attributes:
        title: the spec, with the commit instead of a branch.
        command: the command line, with {port} for the port.
        workers: of a gserver; None for another server.
        has_stats: whether it is a gserver with --stats-socket.
    """

    title: str
    command: tuple[str, ...]
    workers: int | None = None
    has_stats: bool = False

    def target(self, folder: Path) -> Target:
        """A target for one start, on a free port. folder: for its stats socket."""
        port, stats = free_port(), str(folder / "stats.sock") if self.has_stats else None
        command = [word.replace("{port}", str(port)) for word in self.command]
        command += ["--stats-socket", stats] if stats else []
        return Target(("127.0.0.1", port), command, stats_socket=stats, workers=self.workers, title=self.title)


def prepare_server(spec: Spec, profile: Profile, notify: Callable[[str], None] = print) -> PreparedServer:
    """Compile or build the server of a spec; Missing names in one line what this machine lacks.

    notify: gets a line of progress if a commit is built.
    """
    if spec.kind == "cmd":
        return PreparedServer(spec.text, tuple(parse_command(spec.served)))
    if spec.kind == "peer":
        toolchain = Toolchain(cache_folder("gserver-loadtests"))
        return PreparedServer(spec.text, tuple(peer_command(spec.served).command(toolchain)))
    workers = spec.workers or workers_for(profile, hard_nofile_limit())
    words = [spec.served, *server_words(profile, "{port}", workers), *spec.flags]
    if spec.ref is None:
        return PreparedServer(spec.text, tuple(python_module("gserver", *words)), workers, has_stats=True)
    built = build(Path.cwd(), spec.ref, builds_cache(), notify)
    # --chdir and no PYTHONPATH: otherwise Python might import the gserver of this directory.
    command = ("env", "-u", "PYTHONPATH", str(built.gserver), "--chdir", str(built.tree), *words)
    return PreparedServer(spec.text.replace(f"@{spec.ref}", f"@{built.commit}", 1), command, workers)
