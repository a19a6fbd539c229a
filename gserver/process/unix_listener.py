"""A listening unix socket of the arbiter, with its path: the stats socket and the control socket.

Closes: close() closes the socket, and removes the path if this listener has made it.
"""

from __future__ import annotations

import contextlib
import os
import socket

from gserver.config.addresses import UnixBind
from gserver.config.working_directory import absolute, moved_after_link, place_of
from gserver.errors import ConfigError
from gserver.process.privileges import gid_of, uid_of
from gserver.process.unix_sockets import identity, remove_stale, short_path

__all__ = ["UnixListener"]

MODE = 0o600
BACKLOG = 16


class UnixListener:
    """Listen at `bind`, after open().

    Args:
        what: the name of the socket in error messages, such as "stats socket".
        bind: path, permissions (default 600) and owner; None: no socket.
    """

    def __init__(self, what: str, bind: UnixBind | None) -> None:
        self._what = what
        self._bind = bind
        self._given_path = None if bind is None else absolute(bind.path)
        self.path = None if bind is None else place_of(bind.path)
        self.socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None  # by stat() of the path

    def fileno(self) -> int:
        assert self.socket is not None
        return self.socket.fileno()

    def open(self, suffix: str = "") -> bool:
        """Listen at the path plus `suffix`, without blocking; return False without a path.

        ConfigError if that is not possible.
        """
        if self._bind is None or self.path is None:
            return False
        assert self._given_path is not None
        self._given_path += suffix
        self.path += suffix
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self.path) as address:
                remove_stale(address)
                self._make(listener, self._bind, address)
        except (OSError, ConfigError) as error:
            listener.close()
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{self._what} {self.path!r} cannot be made: {reason}") from error
        listener.setblocking(False)
        self.socket = listener
        return True

    def _make(self, listener: socket.socket, bind: UnixBind, address: str) -> None:
        listener.bind(address)
        self._identity = identity(address)
        try:
            os.chmod(address, MODE if bind.mode is None else bind.mode)  # before listen(): no client can connect yet
            uid, gid = uid_of(bind.user), gid_of(bind.group)
            if uid is not None or gid is not None:
                os.chown(address, -1 if uid is None else uid, -1 if gid is None else gid)
            listener.listen(BACKLOG)
        except BaseException:
            os.unlink(address)
            raise

    def rename(self, bind: UnixBind | None) -> None:
        """Move the socket to another path."""
        old, self._bind = self.path, bind
        self._given_path = None if bind is None else absolute(bind.path)
        self.path = None if bind is None else place_of(bind.path)
        if old is not None and self.path is not None and self._is_own(old):
            os.rename(old, self.path)

    def follow(self) -> None:
        """Move the socket if a symbolic link in its path now leads elsewhere, and nothing is there."""
        if self._given_path is not None and self.path is not None and self._is_own(self.path):
            self.path = moved_after_link(self.path, self._given_path)

    def close(self) -> None:
        self.leave_to_child()
        if self.path is not None and self._is_own(self.path):
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def leave_to_child(self) -> None:
        """In a child process: close the socket, and keep the path."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _is_own(self, path: str) -> bool:
        try:
            return self._identity is not None and identity(path) == self._identity
        except OSError:
            return False
