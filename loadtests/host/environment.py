"""Describes the host, interpreter and libraries of a run, and raises the limit of open files."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path

import gserver

__all__ = ["RESERVED_DESCRIPTORS", "describe", "hard_nofile_limit", "raise_nofile_limit", "sockets_within"]

# Descriptors that a process needs in addition to its sockets: libraries, logs, event loops, pipes.
RESERVED_DESCRIPTORS = 200


def raise_nofile_limit() -> int:
    """Raise the soft limit of open files to the hard limit, for this process and its children; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sockets_within(limit: int, sockets: int) -> int:
    """The number of sockets, at most `sockets`, that one process can hold within `limit` open files."""
    return min(sockets, max(1, limit - RESERVED_DESCRIPTORS))


def hard_nofile_limit() -> int:
    """The hard limit of open files of a process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def describe() -> dict[str, str | int]:
    """The host, the interpreter, the libraries and the source, for run.json."""
    return {
        "gserver": gserver.__version__,
        "source": _source(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("gevent", "greenlet", "locust", "psutil", "msgspec")},
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "somaxconn": _kernel("net/core/somaxconn"),
        "port_range": _kernel("net/ipv4/ip_local_port_range"),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _source() -> str:
    """The commit of a checkout, with "+changes" if files were changed; "installed" outside a checkout."""
    folder = Path(gserver.__file__).parent.parent
    if not (folder / ".git").exists():
        return "installed"
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
        return done.stdout.decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _kernel(name: str) -> str:
    try:
        return " ".join(Path("/proc/sys", name).read_text().split())
    except OSError:
        return "unknown"
