"""Where control sockets are: $XDG_RUNTIME_DIR/gserver/PID.ctl, and /run/gserver/PID.ctl for root.

The folder belongs to the user of the arbiter and is closed to all others, so only this user and root reach the sockets
in it, whatever their permissions.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
import time
from collections.abc import Mapping

from gserver.process.unix_sockets import remove_stale

__all__ = ["default_folder", "make_folder", "path_for", "sockets_in", "sweep"]

SUFFIX = ".ctl"
# A socket that is younger than this may belong to a server that is just about to listen on it.
YOUNG_S = 10.0


def default_folder(environ: Mapping[str, str], user: int) -> str | None:
    """The folder of the control sockets of this user (its number); None if there is no place for one."""
    if user == 0:
        return "/run/gserver"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(runtime, "gserver") if os.path.isabs(runtime) else None


def path_for(folder: str, pid: int) -> str:
    return os.path.join(folder, f"{pid}{SUFFIX}")


def make_folder(folder: str) -> None:
    """Make the folder, with mode 700, if it is not there. OSError if it is not this user's, or open to others."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")


def sockets_in(folder: str) -> list[str]:
    """The paths of the control sockets in `folder`, also of servers that have ended."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), f"*{SUFFIX}")))


def sweep(folder: str) -> None:
    """Remove the sockets of servers that were killed."""
    for path in sockets_in(folder):
        with contextlib.suppress(OSError):
            if time.time() - os.lstat(path).st_mtime > YOUNG_S:
                remove_stale(path)
