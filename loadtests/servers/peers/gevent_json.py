"""The JSON service (GREETING and SUM, one object per line) on gevent's StreamServer and the standard json module.

Usage: gevent_json.py PORT
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from gevent.server import StreamServer

from loadtests.servers.peers.json_answers import reply_to


def serve(client: Any, address: Any) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for line in client.makefile("rb"):
            client.sendall(reply_to(line))
    except OSError:
        pass  # the client reset the connection


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=4096).serve_forever()
