"""The paths of unix sockets: which of them is whose, which may be removed, and those that are long."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

__all__ = ["identity", "remove_stale", "short_path"]


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """A path of few bytes to the same place: an address holds only 107 (unix(7)). OSError without such a folder."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def identity(path: str) -> tuple[int, int]:
    """What tells the file at `path` from another one that came to the same name."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def remove_stale(path: str) -> None:
    """Remove the socket that a dead server left at `path`; a live one, and anything that is no socket, stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one whose queue is full is alive, and would keep us waiting
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            pass  # bind() will say what is wrong
