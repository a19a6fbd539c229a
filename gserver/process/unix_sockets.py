"""Paths of unix sockets: detects stale socket files, identifies files, shortens long paths."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

__all__ = ["identity", "remove_stale", "short_path"]


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Yield a short path to the same file: an address holds only 107 bytes (unix(7)). OSError without the folder."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def identity(path: str) -> tuple[int, int]:
    """Return device and inode of the file at `path`: they differ if another file has replaced it."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def remove_stale(path: str) -> None:
    """Remove the socket file at `path` if no process listens on it. Any other file is kept."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a live server with a full accept queue would block connect()
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            pass  # bind() will report what is wrong
