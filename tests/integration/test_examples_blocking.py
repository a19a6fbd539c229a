"""examples/blocking.py: a handler that blocks delays only its own connection.

No clock is needed to see that. While requests of other connections wait, one connection makes echoes, each after the
reply to the last one. If a handler held up the event loop, its reply would be sent before the second echo is read.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess

EXAMPLE = (Path(__file__).parents[2] / "examples" / "blocking.py").read_text()
# On a busy host the client may get no CPU time until the other requests have their replies: then it tries again.
TRIES = 100
# A server whose event loop is held up makes one at most, if its request is handled first in the loop's iteration.
ENOUGH_ECHOES = 4
# The handlers of the example, as they must not be written.
HELD_UP = {
    "gevent.sleep(0.05)": "gevent.monkey.get_original('time', 'sleep')(0.05)",
    "offload.thread(hashlib.pbkdf2_hmac, ": "hashlib.pbkdf2_hmac(",
}


class LittleRedis:
    """A server that replies to GET with the key after 50 ms; leaving the `with` closes it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._over = threading.Event()

    def __enter__(self) -> LittleRedis:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while file.readline() == b"*2\r\n":
                key = [file.readline() for _ in range(4)][3].strip()
                self._over.wait(0.05)
                connection.sendall(b"$%d\r\n%b\r\n" % (len(key), key))


@pytest.fixture
def redis() -> Iterator[LittleRedis]:
    with LittleRedis() as redis:
        yield redis


def serve(folder: Path, redis: LittleRedis, *arguments: str, source: str = EXAMPLE) -> GserverProcess:
    (folder / "blocking.py").write_text(source)
    return GserverProcess(folder, *arguments, "blocking:app", environment={"REDIS": redis.address})


def read_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        received = sock.recv(4096)
        assert received, "the server closed the connection"
        line += received
    return line[:-1]


def call(sock: socket.socket, line: bytes) -> bytes:
    sock.sendall(line + b"\n")
    return read_line(sock)


def echoes_meanwhile(server: GserverProcess, line: bytes, clients: int, tries: int) -> int:
    """How many echoes were answered while so many clients waited for the reply to `line`: the most of several tries.

    It ends when there are ENOUGH_ECHOES.
    """
    most = 0
    with contextlib.ExitStack() as stack:
        echoing, *others = [stack.enter_context(server.connect()) for _ in range(1 + clients)]
        for sock in (echoing, *others):
            assert call(sock, b"echo hello") == b"hello"
        for _ in range(tries):
            for sock in others:
                sock.sendall(line + b"\n")
            count = 0
            while count < ENOUGH_ECHOES:
                assert call(echoing, b"echo %d" % count) == b"%d" % count
                if select.select(others, [], [], 0)[0]:
                    break
                count += 1
            assert not any(read_line(sock).startswith(b"ERROR") for sock in others)
            most = max(most, count)
            if most >= ENOUGH_ECHOES:
                break
    return most


def test_each_command_answers(tmp_path: Path, redis: LittleRedis) -> None:
    with serve(tmp_path, redis) as server, Client(server.address, Lines()) as client:
        assert client.call(b"echo hello") == b"hello"
        assert client.call(b"sleep") == b"slept"
        assert client.call(b"get key") == b"key"
        assert len(client.call(b"hash text")) == 64
        assert client.call(b"what") == b"ERROR unknown command"


@pytest.mark.parametrize(
    ("line", "clients"),
    [(b"sleep", 30), (b"get key", 30), (b"hash text", 1)],  # the last one uses a whole core, and there may be only two
    ids=["sleep", "redis", "thread"],
)
def test_other_connections_are_answered_meanwhile(
    tmp_path: Path, redis: LittleRedis, line: bytes, clients: int
) -> None:
    with serve(tmp_path, redis) as server:
        assert echoes_meanwhile(server, line, clients, TRIES) >= ENOUGH_ECHOES


@pytest.mark.parametrize("line", [b"sleep", b"get key", b"hash text"], ids=["sleep", "redis", "hash"])
def test_a_handler_that_holds_up_the_event_loop_would_be_seen(tmp_path: Path, redis: LittleRedis, line: bytes) -> None:
    """Without patched sockets, and with handlers that sleep and hash in the event loop."""
    source = EXAMPLE
    for good, bad in HELD_UP.items():
        assert good in source
        source = source.replace(good, bad)
    with serve(tmp_path, redis, "--no-patch", source=source) as server:
        assert echoes_meanwhile(server, line, 3, tries=10) < ENOUGH_ECHOES
