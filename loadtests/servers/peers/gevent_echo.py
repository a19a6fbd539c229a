"""Echo on gevent's StreamServer, with a greenlet for each connection. Usage: gevent_echo.py PORT [CERTFILE KEYFILE]"""

from __future__ import annotations

import socket
import sys
from typing import Any

from gevent.server import StreamServer


def echo(client: Any, address: Any) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while data := client.recv(64 * 1024):
            client.sendall(data)
    except OSError:
        pass  # the client reset the connection


if __name__ == "__main__":
    port, *certificate = sys.argv[1:]
    tls: dict[str, Any] = dict(zip(("certfile", "keyfile"), certificate, strict=False))
    StreamServer(("127.0.0.1", int(port)), echo, backlog=4096, **tls).serve_forever()
