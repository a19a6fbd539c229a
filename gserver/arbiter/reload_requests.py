"""Who asked for a reload, and is told how it went.

`gserver --reload-pid FILE` binds a datagram socket beside the pid file, sends HUP, and waits there. An arbiter that
begins a reload looks who waits, and tells them when it is over. So an answer is never that of a reload which had begun
before it was asked for.
"""

from __future__ import annotations

import contextlib
import glob
import os
import select
import signal
import socket
import stat

from gserver.errors import ConfigError
from gserver.process.pidfile import read_pid
from gserver.process.unix_sockets import short_path

__all__ = ["Askers", "ask_for_reload"]

SUFFIX = ".asks"
DONE = "done"
MAX_ANSWER_BYTES = 4096


class Askers:
    """The arbiter's side; without a pid file nobody can ask."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    def collect(self, pidfile: str | None) -> None:
        """A reload begins: it answers those who wait now, and those who waited for one that was given up."""
        if pidfile is not None:
            waiting = glob.glob(f"{glob.escape(pidfile)}.*{SUFFIX}")
            self._paths = sorted({*self._paths, *(path for path in waiting if _asker(pidfile, path).isdecimal())})

    def answer(self, failure: str | None) -> None:
        """Tell them how it went."""
        for path in self._paths:
            _send(path, DONE if failure is None else f"failed: {failure}")
        self._paths.clear()


def _asker(pidfile: str, path: str) -> str:
    """What stands between: the id of the process that asks; or more, if it asks the arbiter of a longer name."""
    return path.removeprefix(pidfile + ".").removesuffix(SUFFIX)


def _send(path: str, text: str) -> None:
    with (
        contextlib.suppress(OSError),
        short_path(path) as address,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.setblocking(False)
        try:
            sender.sendto(text.encode(errors="backslashreplace")[:MAX_ANSWER_BYTES], address)
        except ConnectionRefusedError:  # it was killed while it waited
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)


def ask_for_reload(pidfile: str) -> str | None:
    """Make the arbiter of `pidfile` reload, and wait for the end of it; return why it failed, or None.

    ConfigError if there is no such arbiter or it may not be asked.
    """
    pid = read_pid(pidfile)
    if pid is None:
        raise ConfigError(f"there is no process id in {pidfile!r}")
    path = f"{os.path.abspath(pidfile)}.{os.getpid()}{SUFFIX}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        try:
            with short_path(path) as address:
                receiver.bind(address)
        except OSError as error:
            raise ConfigError(f"cannot wait for an answer beside {pidfile!r}: {error.strerror}") from error
        try:
            return _ask(receiver, pidfile, pid)
        finally:
            os.unlink(path)


def _ask(receiver: socket.socket, pidfile: str, pid: int) -> str | None:
    try:
        arbiter = os.pidfd_open(pid)  # readable when that process ends
    except ProcessLookupError:
        raise ConfigError(f"there is no process {pid}") from None
    try:
        if read_pid(pidfile) != pid:  # it ended meanwhile, and its id may be another's by now
            raise ConfigError(f"process {pid} has left {pidfile!r}")
        signal.pidfd_send_signal(arbiter, signal.SIGHUP)
        readable, _, _ = select.select([receiver.fileno(), arbiter], [], [])
    except PermissionError:
        raise ConfigError(f"process {pid} is another user's") from None
    except ProcessLookupError:
        readable = [arbiter]
    finally:
        os.close(arbiter)
    if receiver.fileno() not in readable:
        return "the server has ended"
    answer = receiver.recv(MAX_ANSWER_BYTES).decode(errors="ignore")
    return None if answer == DONE else answer.removeprefix("failed: ")
