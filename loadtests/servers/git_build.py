"""Builds another commit of this repository: a worktree and a virtual environment, cached by commit.

    CACHE/COMMIT-PYTHON/tree, venv, log, and ready, which is written last

Its dependencies are installed in the versions of this interpreter, so that a comparison is between two commits, and not
between two versions of gevent.
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

OWN_PACKAGE = "gserver-tcp"


@dataclass(frozen=True)
class Build:
    """A commit that was built.

    Attributes:
        commit: twelve digits.
        tree: the folder with its files.
        gserver: the path of its command.
    """

    commit: str
    tree: Path
    gserver: Path


def builds_cache() -> Path:
    """The folder of all builds."""
    return cache_folder("gserver-loadtests") / "builds"


def build(repository: Path, ref: str, cache: Path, notify: Callable[[str], None]) -> Build:
    """Build a commit, unless it was built before; Missing explains a failure in one line."""
    git = [need("git"), "-C", str(repository)]
    commit = _commit(git, repository, ref)
    folder = cache / f"{commit}-{sysconfig.get_python_version()}"
    result = Build(commit[:12], folder / "tree", folder / "venv" / "bin" / "gserver")
    with _locked(folder):
        if not (folder / "ready").exists():
            notify(f"building {ref} ({result.commit}), once")
            _build(git, commit, folder, result)
            (folder / "ready").touch()
    return result


def _commit(git: Sequence[str], repository: Path, ref: str) -> str:
    try:
        return run_tool([*git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]).strip()
    except Missing:
        pass
    if subprocess.run([*git, "rev-parse"], capture_output=True, check=False).returncode:
        raise Missing(f"{repository} is not a git repository, so it has no commit {ref!r}")
    raise Missing(f"git finds no commit {ref!r} here; fetch it first if it is in another repository")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one process builds; others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(git: Sequence[str], commit: str, folder: Path, result: Build) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an unfinished build
    folder.mkdir()
    run_tool([*git, "worktree", "prune"])
    run_tool([*git, "worktree", "add", "--quiet", "--force", "--detach", str(result.tree), commit])
    check_module("pip")
    run_tool([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{each}\n" for each in _installed()), "utf-8")
    _install(folder, constraints, result)
    if not result.gserver.exists():
        raise Missing(f"commit {result.commit} installs no command gserver")


def _install(folder: Path, constraints: Path, result: Build) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "--disable-pip-version-check", "install"]
    command = [*pip, "--constraint", str(constraints), "--editable", str(result.tree)]
    log = folder / "log"
    with log.open("wb") as output:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode
    if status:
        errors = [line for line in log.read_text("utf-8", "replace").splitlines() if "error" in line.lower()]
        raise Missing(
            f"pip cannot install commit {result.commit}: {errors[0].strip() if errors else status}; its log is {log}"
        )


def _installed() -> list[str]:
    names = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in names.items() if name and name != OWN_PACKAGE)
