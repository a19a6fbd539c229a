"""The users of the profiles: the standard users, one that reconnects for each exchange, and one that reads slowly."""

from __future__ import annotations

import socket
from typing import Any

from loadtests.client.connection import ClientConnection
from loadtests.users.standard_users import EchoUser, JsonUser, MessageUser

__all__ = ["ChurnUser", "EchoUser", "JsonUser", "MessageUser", "SlowReader"]

SLOW_BYTES = 8 * 1024
SLOW_PAUSE_S = 2.0 / 32


class ChurnUser(JsonUser):
    """Opens a connection for each exchange."""

    exchanges_per_connection = 1


class SlowConnection(ClientConnection):
    """Receives 8 KiB at a time, 16 times a second, with a receive buffer of the same size in the kernel."""

    def __init__(self, sock: Any, *arguments: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
        super().__init__(sock, *arguments)
        self._pause = self._hub.loop.timer(SLOW_PAUSE_S)

    def _receive(self) -> bytes:
        data = self._sock.recv(SLOW_BYTES)
        if data:
            self._watcher.stop()
            self._pause.start(self._resume, update=True)
        return data

    def _resume(self) -> None:
        if self.error is None:
            self._watcher.start(self._readable)

    def close(self) -> None:
        self._pause.stop()
        self._pause.close()
        super().close()


class SlowReader(EchoUser):
    """Sends --payload bytes, and reads the echo slowly: 256 KiB in two seconds."""

    connection_class = SlowConnection
