"""Thousands of hostile, slow and broken clients in a separate process. Each class is named after its behaviour.

    with Attack(address, silent=5000, dripping=1000) as attack:
        ...             # all clients are connected and active
    attack.report       # how many are alive, were closed or refused

The address is a pair of host and port, or the path of a unix socket.

As a program, python -m tests.helpers.hostile HOST PORT KIND=COUNT... prints `ready` when all clients are connected,
runs until its standard input ends, and prints the report as JSON. HOST is the path of a unix socket if PORT is empty.
A client that the server closes is counted and connects again after half a second.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType

__all__ = ["KINDS", "Attack"]

Address = tuple[str, int] | str

ROOT = Path(__file__).parent.parent.parent
#: The program ends after this time if its standard input stays open.
LONGEST_S = 300.0
TICK_S = 0.05
RECONNECT_S = 0.5
BATCH = 200  # connects at a time, so that the accept queue does not overflow


class Hostile:
    """One client. acts_every_s: interval of the calls of act(); None for never."""

    acts_every_s: float | None = None
    reads = True

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.acts_at = time.monotonic() + random.random() * (self.acts_every_s or 0.0)

    def begin(self) -> None:
        """Called once, when the client is connected."""

    def act(self) -> None:
        """Called every acts_every_s."""


class Silent(Hostile):
    """Connects and sends nothing."""


class Dripping(Hostile):
    """Sends an endless message, one byte a second."""

    acts_every_s = 1.0

    def act(self) -> None:
        self.sock.send(b"x")


class NotReading(Hostile):
    """Requests large replies again and again, and reads nothing."""

    acts_every_s = 0.5
    reads = False

    def begin(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)

    def act(self) -> None:
        self.sock.send(b"big\n" * 10)


class Flooding(Hostile):
    """Sends tiny messages as fast as the server reads."""

    acts_every_s = 0.0

    def act(self) -> None:
        self.sock.send(b"f\n" * 30_000)


class Resetting(Hostile):
    """Resets the connection inside a message."""

    acts_every_s = 0.2

    def act(self) -> None:
        self.sock.send(b"half a messa")
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        raise ConnectionResetError


class HalfClosing(Hostile):
    """Sends a message and closes its sending side at once."""

    acts_every_s = 0.2

    def act(self) -> None:
        self.sock.send(b"hello\n")
        self.sock.shutdown(socket.SHUT_WR)


class Garbage(Hostile):
    """Sends random bytes."""

    acts_every_s = 0.2

    def act(self) -> None:
        self.sock.send(random.randbytes(random.randrange(1, 5000)))


class OverLong(Hostile):
    """Sends a message that exceeds the size limit."""

    acts_every_s = 0.1

    def act(self) -> None:
        self.sock.send(b"x" * 100_000)


class Empty(Hostile):
    """Sends empty messages."""

    acts_every_s = 0.1

    def act(self) -> None:
        self.sock.send(b"\n" * 1000)


KINDS: dict[str, type[Hostile]] = {
    "silent": Silent,
    "dripping": Dripping,
    "not_reading": NotReading,
    "flooding": Flooding,
    "resetting": Resetting,
    "half_closing": HalfClosing,
    "garbage": Garbage,
    "over_long": OverLong,
    "empty": Empty,
}


class Crowd:
    """All clients, in one selector loop."""

    def __init__(self, address: Address, counts: dict[str, int]) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._alive: set[Hostile] = set()
        self._reconnects: list[tuple[float, type[Hostile]]] = []
        self.closed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        kinds = [KINDS[name] for name, count in counts.items() for _ in range(count)]
        for begin in range(0, len(kinds), BATCH):
            for kind in kinds[begin : begin + BATCH]:
                self._connect(kind)
            self.run_once(0.01)

    def _connect(self, kind: type[Hostile]) -> None:
        sock = socket.socket(socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET)
        try:
            sock.settimeout(60)
            sock.connect(self._address)
            sock.setblocking(False)
            client = kind(sock)
            client.begin()
        except OSError:
            sock.close()
            self.refused[kind.__name__] += 1
            self._reconnects.append((time.monotonic() + RECONNECT_S, kind))
            return
        self._alive.add(client)
        if client.reads:
            self._selector.register(sock, selectors.EVENT_READ, client)

    def _closed(self, client: Hostile) -> None:
        self.closed[type(client).__name__] += 1
        if client.reads:
            try:
                self._selector.unregister(client.sock)
            except (KeyError, ValueError):  # the client has closed its socket itself
                pass
        client.sock.close()
        self._alive.discard(client)
        self._reconnects.append((time.monotonic() + RECONNECT_S, type(client)))

    def run_once(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            try:
                if not key.data.sock.recv(1 << 16):
                    self._closed(key.data)
            except BlockingIOError:
                continue
            except OSError:
                self._closed(key.data)
        now = time.monotonic()
        for client in [each for each in self._alive if each.acts_every_s is not None and each.acts_at <= now]:
            client.acts_at = now + (client.acts_every_s or 0.0)
            try:
                client.act()
            except BlockingIOError:
                continue
            except OSError:
                self._closed(client)
        due = [kind for at, kind in self._reconnects if at <= now]
        self._reconnects = [(at, kind) for at, kind in self._reconnects if at > now]
        for kind in due[:BATCH]:
            self._connect(kind)

    def report(self) -> dict[str, object]:
        alive = Counter(type(client).__name__ for client in self._alive)
        return {"alive": alive, "closed": self.closed, "refused": self.refused}


class Attack:
    """The program as a child process; in the `with`, all clients are connected."""

    def __init__(self, address: Address, **counts: int) -> None:
        words = [f"{kind}={count}" for kind, count in counts.items()]
        place = (address, "") if isinstance(address, str) else (address[0], str(address[1]))
        self.report: dict[str, dict[str, int]] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.hostile", *place, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            preexec_fn=lambda: os.nice(10),  # CPU time that the clients use must not slow down the server
        )

    def __enter__(self) -> Attack:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output, _ = self._process.communicate(timeout=60)
        self.report = json.loads(output.splitlines()[-1])


def main(host: str, port: str, *words: str) -> None:
    counts = {kind: int(count) for kind, _, count in (word.partition("=") for word in words)}
    crowd = Crowd((host, int(port)) if port else host, counts)
    print("ready", flush=True)
    os.set_blocking(0, False)
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until and not _is_over():
        crowd.run_once(TICK_S if "flooding" not in counts else 0.001)
    print(json.dumps(crowd.report()), flush=True)


def _is_over() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
