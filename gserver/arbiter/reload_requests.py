"""gserver --reload-pid FILE: request a reload of a running server, and wait for its result.

The command binds a datagram socket beside the pid file, sends HUP to the arbiter, and waits for a reply. When the
arbiter begins a reload, it lists the sockets that are there; when the reload ends, it sends the result to each. So the
result is never that of a reload that had begun before the request.

The name of a socket has the pid of the command. A leading 0 means that the command understands how the server was
reloaded. Earlier versions write no 0, and read only "done" as a success; those of the server accept any number.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import signal
import socket
import stat

from gserver.errors import ConfigError, GServerError
from gserver.process.pidfile import read_pid
from gserver.process.unix_sockets import short_path

__all__ = ["FULL", "LIVE", "ReloadFailedError", "ReloadRequests", "request_reload"]

SUFFIX = ".asks"
DONE = "done"
#: With new workers, or with the running workers and every connection.
FULL, LIVE = "with new workers", "with other settings: every connection is kept"
MAX_REPLY_BYTES = 4096


class ReloadRequests:
    """The arbiter's side: the sockets that wait for the result of a reload. There are none without a pid file."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    def collect(self, pidfile: str | None) -> None:
        """A reload begins: add the sockets that wait now to those of an abandoned reload."""
        if pidfile is not None:
            waiting = glob.glob(f"{glob.escape(pidfile)}.*{SUFFIX}")
            self._paths = sorted(
                {*self._paths, *(path for path in waiting if _requester_pid(pidfile, path).isdecimal())}
            )

    def reply(self, failure: str | None, how: str = FULL) -> None:
        """Send the result of the reload to all.

        Args:
            failure: the reason; None means success.
            how: after a success: FULL or LIVE.
        """
        for path in self._paths:
            understands = os.path.basename(path).rsplit(".", 2)[1].startswith("0")
            done = f"{DONE} {how}" if understands else DONE
            _send_reply(path, done if failure is None else f"failed: {failure}")
        self._paths.clear()


def _requester_pid(pidfile: str, path: str) -> str:
    """The part between the pid file's name and the suffix: the pid of the command.

    It is not a number if the socket belongs to another server with a longer name of its pid file.
    """
    return path.removeprefix(pidfile + ".").removesuffix(SUFFIX)


def _send_reply(path: str, reply: str) -> None:
    with (
        contextlib.suppress(OSError),
        short_path(path) as address,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        try:
            sender.sendto(reply.encode(errors="backslashreplace")[:MAX_REPLY_BYTES], address)
        except ConnectionRefusedError:  # the command was killed while it waited
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)


class ReloadFailedError(GServerError):
    """The reload has failed; the text is the reason."""


def request_reload(pidfile: str) -> str:
    """Reload the server of `pidfile` and wait for the result; return how it was reloaded: FULL, LIVE or "".

    An earlier version of the server does not state how. ReloadFailedError if the reload fails. ConfigError if the file
    names no running process, or one that this user may not signal.
    """
    pid = read_pid(pidfile)
    if pid is None:
        raise ConfigError(f"there is no process id in {pidfile!r}")
    path = f"{os.path.abspath(pidfile)}.0{os.getpid()}{SUFFIX}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        try:
            with short_path(path) as address:
                receiver.bind(address)
        except OSError as error:
            raise ConfigError(f"cannot wait for a reply beside {pidfile!r}: {error.strerror}") from error
        try:
            return _request(receiver, pidfile, pid)
        finally:
            os.unlink(path)


def _request(receiver: socket.socket, pidfile: str, pid: int) -> str:
    try:
        arbiter = os.pidfd_open(pid)  # readable when that process ends
    except ProcessLookupError:
        raise ConfigError(f"there is no process {pid}") from None
    try:
        if read_pid(pidfile) != pid:  # it has ended, and another process may have its pid by now
            raise ConfigError(f"process {pid} is not that of {pidfile!r} any more")
        signal.pidfd_send_signal(arbiter, signal.SIGHUP)
        readable, _, _ = select.select([receiver.fileno(), arbiter], [], [])
    except PermissionError:
        raise ConfigError(f"process {pid} belongs to another user") from None
    except ProcessLookupError:
        readable = [arbiter]
    finally:
        os.close(arbiter)
    if receiver.fileno() not in readable:
        raise ReloadFailedError("the server has ended")
    reply = receiver.recv(MAX_REPLY_BYTES).decode(errors="ignore")
    if reply != DONE and not reply.startswith(f"{DONE} "):
        raise ReloadFailedError(reply.removeprefix("failed: "))
    return reply.removeprefix(DONE).removeprefix(" ")
