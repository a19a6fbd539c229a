"""Another commit of this repository, made ready to serve: a worktree with an environment of its own, kept by commit.

    CACHE/COMMIT-PYTHON/tree, venv, log, and ready, which is written last

What it needs beside itself is installed in the versions that this interpreter has, so that two commits of a server are
compared, and not two versions of gevent.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from loadtests.servers.toolchain import Missing, cache_folder, check_module, need, run_tool

__all__ = ["Build", "build", "builds_cache"]

OURS = "gserver-tcp"


@dataclass(frozen=True)
class Build:
    """A commit that can be served.

    commit: twelve digits. tree: its files. gserver: its command.
    """

    commit: str
    tree: Path
    gserver: Path


def builds_cache() -> Path:
    """Where builds are kept."""
    return cache_folder("gserver-loadtests") / "builds"


def build(repository: Path, ref: str, cache: Path, say: Callable[[str], None]) -> Build:
    """The build of a commit, made unless it is there; Missing says in one line what failed."""
    git = [need("git"), "-C", str(repository)]
    commit = _commit(git, repository, ref)
    folder = cache / f"{commit}-{sysconfig.get_python_version()}"
    made = Build(commit[:12], folder / "tree", folder / "venv" / "bin" / "gserver")
    with _alone(folder):
        if not (folder / "ready").exists():
            say(f"building {ref} ({made.commit}), once")
            _make(git, commit, folder, made)
            (folder / "ready").touch()
    return made


def _commit(git: Sequence[str], repository: Path, ref: str) -> str:
    try:
        return run_tool([*git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]).strip()
    except Missing:
        pass
    if subprocess.run([*git, "rev-parse"], capture_output=True, check=False).returncode:
        raise Missing(f"{repository} is no git repository, so there is no commit {ref!r}")
    raise Missing(f"git knows no commit {ref!r} here; one of another repository has to be fetched first")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One builds, others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(git: Sequence[str], commit: str, folder: Path, made: Build) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of one that was not finished
    folder.mkdir()
    run_tool([*git, "worktree", "prune"])
    run_tool([*git, "worktree", "add", "--quiet", "--force", "--detach", str(made.tree), commit])
    check_module("pip")
    run_tool([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{each}\n" for each in _installed()), "utf-8")
    _install(folder, constraints, made)
    if not made.gserver.exists():
        raise Missing(f"commit {made.commit} installs no command gserver")


def _install(folder: Path, constraints: Path, made: Build) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "--disable-pip-version-check", "install"]
    command = [*pip, "--constraint", str(constraints), "--editable", str(made.tree)]
    log = folder / "log"
    with log.open("wb") as output:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode
    if status:
        said = [line for line in log.read_text("utf-8", "replace").splitlines() if "error" in line.lower()]
        raise Missing(
            f"pip cannot install commit {made.commit}: {said[0].strip() if said else status}; its log is {log}"
        )


def _installed() -> list[str]:
    names = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in names.items() if name and name != OURS)
