"""systemd: socket activation, notification, watchdog, and the journal.

See sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3), and JOURNAL_STREAM in systemd.exec(5).

Without systemd, all functions do nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from gserver.config.addresses import FdBind

__all__ = ["FIRST_DESCRIPTOR", "Notifier", "is_journal", "take_sockets"]

FIRST_DESCRIPTOR = 3
# Time of a stop after the drain: signals to the remaining workers, and the last lines of the log.
MARGIN_S = 5.0


def take_sockets(environ: MutableMapping[str, str], pid: int) -> tuple[FdBind, ...]:
    """Return the sockets that systemd has passed, with their names, and remove their variables from `environ`.

    systemd before version 227 passes no names: then they are empty.
    """
    variables = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    for_pid, count, names = [environ.pop(name, "") for name in variables]
    if for_pid != str(pid) or not (count.isascii() and count.isdigit()):
        return ()
    named = names.split(":")
    return tuple(
        FdBind(FIRST_DESCRIPTOR + index, named[index] if index < len(named) else "") for index in range(int(count))
    )


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether systemd's journal reads what is written to `descriptor`.

    JOURNAL_STREAM has the device and the inode of the stream to the journal. A process may have inherited the variable
    and write to another file, so both are compared.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:  # it is closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Notifier:
    """Reports the state of the service to the service manager.

    By default, systemd reads messages of the main process only (NotifyAccess=main), and ends the whole service after
    STOPPING=1. So an arbiter that hands over to a successor reports the successor as the main process, and sends
    nothing more. A successor sends nothing but READY=1 before that.

    Args:
        environ: the environment, with NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
        pid: the id of this process.
        is_main: whether this is the main process of the service; a successor is not, until it has taken over.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int, is_main: bool = True) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._is_main = is_main
        self._is_reloading = False
        usec = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        # Half of the time, as sd_watchdog_enabled(3) recommends.
        self._every_s = (
            int(usec) / 2_000_000
            if self._address and is_meant and usec.isascii() and usec.isdigit() and int(usec)
            else None
        )
        #: When the next WATCHDOG=1 is due; None: never. Only the main process sends it; others would hide its failure.
        self.pings_at: float | None = None
        if self._every_s is not None and is_main:
            self.pings_at = time.monotonic() + self._every_s

    def ready(self, status: str) -> None:
        self._is_reloading = False
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        if self._is_main:
            self._is_reloading = True
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self, drain_s: float = 0.0) -> None:
        """Report that the service stops within `drain_s` seconds and MARGIN_S; extends a shorter TimeoutStopSec=."""
        if self._is_main:
            self._send(f"STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={int((drain_s + MARGIN_S) * 1_000_000)}")

    def hand_over(self, pid: int) -> None:
        """Report `pid` as the main process; this process reports nothing more.

        systemd ends a service without a main process: this process must still be running.
        """
        ended = "READY=1\n" if self._is_reloading else ""  # otherwise the service would stay "reloading"
        self._send(f"MAINPID={pid}\n{ended}")
        self._address, self._is_main, self.pings_at = "", False, None

    def took_over(self, pid: int) -> None:
        """Report this process as the main one. Its predecessor has done so already, unless it was killed."""
        self._send(f"MAINPID={pid}\n")
        if not self._is_main and self._every_s is not None:
            self.pings_at = time.monotonic()  # the last ping of the predecessor may be old
        self._is_main = True

    def ping(self, now: float) -> None:
        """Send WATCHDOG=1 if it is due."""
        if self.pings_at is not None and self._every_s is not None and now >= self.pings_at:
            self._send("WATCHDOG=1")
            self.pings_at = now + self._every_s

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # a service manager that does not read must not stop the server
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto(text.encode(), self._address)
