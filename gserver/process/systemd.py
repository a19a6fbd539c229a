"""What systemd passes and wants to hear: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

Without systemd every function here does nothing.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import MutableMapping

from gserver.config.addresses import FdBind

__all__ = ["FIRST_DESCRIPTOR", "Notifier", "take_sockets"]

FIRST_DESCRIPTOR = 3
# What a stop takes beyond its drain: signals to the workers that are left, and the last lines of the log.
MARGIN_S = 5.0


def take_sockets(environ: MutableMapping[str, str], pid: int) -> tuple[FdBind, ...]:
    """The sockets that this process was activated with, and their variables out of the environment."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    for_pid, count, _ = [environ.pop(name, "") for name in names]
    if for_pid != str(pid) or not (count.isascii() and count.isdigit()):
        return ()
    return tuple(FdBind(FIRST_DESCRIPTOR + index) for index in range(int(count)))


class Notifier:
    """Reports the state of the service to the service manager.

    By default systemd reads messages of the service's main process only (NotifyAccess=main), and ends the whole service
    after STOPPING=1. So an arbiter that leaves its sockets to a successor names it as the main process and is silent
    from then on; a successor reports nothing but READY=1 before.

    Args:
        is_main: whether this process is the service's main one; a successor is not, until it has taken over.
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
        #: When the next WATCHDOG=1 is due; None: never. Only the main process sends it, or its faults would be hidden.
        self.pings_at: float | None = None
        if self._every_s is not None and is_main:
            self.pings_at = time.monotonic() + self._every_s

    def ready(self, status: str) -> None:
        self._is_reloading = False
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        if self._is_main:
            self._is_reloading = True
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self, patience_s: float = 0.0) -> None:
        """The service ends, within `patience_s` seconds and a few; TimeoutStopSec= is extended if it is shorter."""
        if self._is_main:
            self._tell(f"STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={int((patience_s + MARGIN_S) * 1_000_000)}")

    def hand_over(self, pid: int) -> None:
        """`pid` is the main process from now on, and this one reports nothing more.

        Must be called while this process lives: systemd ends a service that has lost its main process.
        """
        ended = "READY=1\n" if self._is_reloading else ""  # the service must not be "reloading" for ever
        self._tell(f"MAINPID={pid}\n{ended}")
        self._address, self._is_main, self.pings_at = "", False, None

    def took_over(self, pid: int) -> None:
        """This process is the main one from now on. Its predecessor has reported that, unless it was killed."""
        self._tell(f"MAINPID={pid}\n")
        if not self._is_main and self._every_s is not None:
            self.pings_at = time.monotonic()  # the last ping of the predecessor may be nearly too old
        self._is_main = True

    def ping(self, now: float) -> None:
        """Send WATCHDOG=1 if it is due."""
        if self.pings_at is not None and self._every_s is not None and now >= self.pings_at:
            self._tell("WATCHDOG=1")
            self.pings_at = now + self._every_s

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # a manager that does not listen is no reason to stop serving
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
        ):
            sender.sendto(text.encode(), self._address)
