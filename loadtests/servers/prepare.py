"""A server spec made ready: what has to be compiled or built is, and then it is started as often as somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.host.environment import hard_nofile_limit
from loadtests.host.subprocesses import free_port, python_module
from loadtests.servers.git_build import build, builds_cache
from loadtests.servers.peer_commands import recipe_of
from loadtests.servers.spec import Spec, parse_command
from loadtests.servers.target import Target, server_words, workers_for
from loadtests.servers.toolchain import Toolchain, cache_folder
from loadtests.workloads.profiles import Profile

__all__ = ["ReadySide", "make_ready"]


@dataclass(frozen=True)
class ReadySide:
    """A server that can be started.

    Attributes:
        title: what it is called, with the commit where there is one.
        command: its words, with {port} for the port.
        workers: gserver's, None for another server.
        tells: whether it is a gserver that tells what it has counted.
    """

    title: str
    command: tuple[str, ...]
    workers: int | None = None
    tells: bool = False

    def target(self, folder: Path) -> Target:
        """It on a port that is free now; `folder` is for its stats socket."""
        port, stats = free_port(), str(folder / "stats.sock") if self.tells else None
        command = [word.replace("{port}", str(port)) for word in self.command]
        command += ["--stats-socket", stats] if stats else []
        return Target(("127.0.0.1", port), command, stats_socket=stats, workers=self.workers, title=self.title)


def make_ready(spec: Spec, profile: Profile, say: Callable[[str], None] = print) -> ReadySide:
    """Everything that a spec needs to be started; Missing says in one line what this machine lacks for it."""
    if spec.kind == "cmd":
        return ReadySide(spec.text, tuple(parse_command(spec.served)))
    if spec.kind == "peer":
        toolchain = Toolchain(cache_folder("gserver-loadtests"))
        return ReadySide(spec.text, tuple(recipe_of(spec.served).command(toolchain)))
    workers = spec.workers or workers_for(profile, hard_nofile_limit())
    words = [spec.served, *server_words(profile, "{port}", workers), *spec.flags]
    if spec.ref is None:
        return ReadySide(spec.text, tuple(python_module("gserver", *words)), workers, tells=True)
    made = build(Path.cwd(), spec.ref, builds_cache(), say)
    # Neither this directory nor PYTHONPATH may put another gserver before the one that was built.
    command = ("env", "-u", "PYTHONPATH", str(made.gserver), "--chdir", str(made.tree), *words)
    return ReadySide(spec.text.replace(f"@{spec.ref}", f"@{made.commit}", 1), command, workers)
