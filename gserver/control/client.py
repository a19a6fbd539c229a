"""A client of the control socket, for gserverctl and for scripts in Python.

    with ControlClient("/run/gserver/4711.ctl") as server:
        for row in server.request("connections", sort="idle", limit=10):
            print(row["id"], row["peer"])
        print(server.result["count"])

Closes: close(), or the end of `with`.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from gserver.control.protocol import SCHEMA, Problem
from gserver.process.unix_sockets import short_path

__all__ = ["SILENCE_S", "ControlClient", "Unreachable"]

#: How long a server may take for the next line, in seconds. The arbiter answers within a few for each worker.
SILENCE_S = 30.0


class Unreachable(Exception):
    """There is no server at the path, or it has ended, or it does not answer. The text is one line."""


class ControlClient:
    """A connection to one server; Unreachable if there is none.

    Attributes:
        result: the result of the last request, once its rows have been read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.result: dict[str, Any] = {}
        self._number = 0  # of the last request
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # In blocking mode connect() waits for a place in the accept queue, at most as long as a send may take. With a
        # timeout of Python's it would fail at once (EAGAIN).
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SILENCE_S), 0))
        try:
            with short_path(path) as address:
                self._sock.connect(address)
            self._sock.settimeout(SILENCE_S)
        except OSError as error:
            self._sock.close()
            raise Unreachable(f"control socket {path!r} cannot be used: {error.strerror or error}") from None
        self._lines = self._sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._sock.close()

    def call(self, command: str, *, limit_s: float | None = SILENCE_S, **arguments: Any) -> dict[str, Any]:
        """Send a request, and return its result. That of a command that lists has the rows in `rows`.

        Raises Problem if the server refuses, and Unreachable if it does not answer within `limit_s` (None: wait).
        """
        rows = list(self.request(command, limit_s=limit_s, **arguments))
        return {"rows": rows, **self.result} if rows or "count" in self.result else self.result

    def request(self, command: str, *, limit_s: float | None = SILENCE_S, **arguments: Any) -> Iterator[Any]:
        """Send a request, and iterate over its rows; then `result` has its result. Raises what call() raises."""
        self._sock.settimeout(limit_s)
        self._number += 1
        number = self._number
        try:
            self._sock.sendall(json.dumps({"command": command, "id": number, **arguments}).encode() + b"\n")
            while "rows" in (line := self._next_line(number)):
                yield from line["rows"]
        except (ConnectionResetError, BrokenPipeError):
            raise Unreachable(f"the server at {self.path!r} has ended") from None
        except OSError as error:
            raise Unreachable(f"the server at {self.path!r} does not answer: {error.strerror or error}") from None
        if "error" in line:
            raise Problem(line["error"]["code"], line["error"]["message"])
        self.result = line["result"]

    def wait_for_end(self, limit_s: float | None) -> None:
        """Wait until the server has ended, which closes the connection. Unreachable if it takes longer."""
        self._sock.settimeout(limit_s)
        try:
            while self._lines.read(4096):
                pass
        except ConnectionResetError:
            pass
        except OSError as error:
            raise Unreachable(f"the server at {self.path!r} has not ended: {error.strerror or error}") from None

    def _next_line(self, number: int) -> dict[str, Any]:
        """The next line of the reply to this request. Those to earlier requests were not read to their end."""
        while (line := self._read_line()).get("id", number) not in (number, None):
            pass
        return line

    def _read_line(self) -> dict[str, Any]:
        text = self._lines.readline()
        if not text.endswith(b"\n"):
            raise Unreachable(f"the server at {self.path!r} has ended")
        try:
            line = json.loads(text)
            schema = line["schema"]
        except (ValueError, TypeError, LookupError, RecursionError):
            line = schema = None
        if schema is not None and schema != SCHEMA:
            raise Unreachable(f"the server at {self.path!r} has version {schema!r:.20} of the protocol, not {SCHEMA}")
        if not isinstance(line, dict) or line.keys().isdisjoint(("rows", "result", "error")):
            raise Unreachable(f"{self.path!r} is not the control socket of a gserver")
        return line
