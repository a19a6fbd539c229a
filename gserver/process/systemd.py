"""What systemd passes and wants to hear: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

Without systemd every function here does nothing.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import MutableMapping

from gserver.bind import FdBind

__all__ = ["FIRST_DESCRIPTOR", "Notifier", "take_sockets"]

FIRST_DESCRIPTOR = 3


def take_sockets(environ: MutableMapping[str, str], pid: int) -> tuple[FdBind, ...]:
    """The sockets that this process was activated with, and their variables out of the environment."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    for_pid, count, _ = [environ.pop(name, "") for name in names]
    if for_pid != str(pid) or not (count.isascii() and count.isdigit()):
        return ()
    return tuple(FdBind(FIRST_DESCRIPTOR + index) for index in range(int(count)))


class Notifier:
    """Tells the service manager how things stand."""

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        # Half of the time, as sd_watchdog_enabled(3) recommends.
        self._every_s = (
            int(usec) / 2_000_000
            if self._address and is_meant and usec.isascii() and usec.isdigit() and int(usec)
            else None
        )
        self.pings_at: float | None = None if self._every_s is None else time.monotonic() + self._every_s

    def ready(self, status: str) -> None:
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reloading")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=stopping")

    def took_over(self, pid: int) -> None:
        """Another process is the main one now."""
        self._tell(f"MAINPID={pid}\nREADY=1")

    def ping(self, now: float) -> None:
        """Say that all is well, if it is time to."""
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
