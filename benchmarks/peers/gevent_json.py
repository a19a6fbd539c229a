"""JSON objects on lines, greeted and added up, on gevent's StreamServer and the standard library's json.

Usage: gevent_json.py PORT
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from gevent.server import StreamServer


def answer(message: dict[str, Any]) -> dict[str, Any]:
    if message["type"] == "GREETING":
        return {"status": "OK", "reply": f"Hello, {message['name']}!"}
    if message["type"] == "SUM":
        return {"status": "OK", "result": message["a"] + message["b"]}
    return {"status": "ERROR", "message": "Unknown type"}


def reply(line: bytes) -> dict[str, Any]:
    try:
        return answer(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return {"status": "ERROR", "message": "Invalid JSON"}


def serve(client: Any, address: Any) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        for line in client.makefile("rb"):
            client.sendall(json.dumps(reply(line)).encode() + b"\n")
    except OSError:
        pass  # the peer broke the connection


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=4096).serve_forever()
