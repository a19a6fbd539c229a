"""examples/blocking.py: a handler that blocks delays only its own connection."""

from __future__ import annotations

import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess
from tests.helpers.steady import Steady

EXAMPLES = Path(__file__).parents[2] / "examples"
ROUNDS = 5
ROUND_S = 0.25


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
def server(tmp_path: Path) -> Iterator[GserverProcess]:
    (tmp_path / "blocking.py").write_text((EXAMPLES / "blocking.py").read_text())
    with (
        LittleRedis() as redis,
        GserverProcess(tmp_path, "blocking:app", environment={"REDIS": redis.address}) as server,
    ):
        yield server


@contextmanager
def busy_with(server: GserverProcess, line: bytes, clients: int) -> Iterator[list[int]]:
    """Run so many clients that send this line again and again; yields the number of replies of each."""
    over = threading.Event()
    answers = [0] * clients

    def run(number: int) -> None:
        with Client(server.address, Lines()) as client:
            while not over.is_set():
                assert not client.call(line).startswith(b"ERROR")
                answers[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_each_command_answers(server: GserverProcess) -> None:
    with Client(server.address, Lines()) as client:
        assert client.call(b"echo hello") == b"hello"
        assert client.call(b"sleep") == b"slept"
        assert client.call(b"get key") == b"key"
        assert len(client.call(b"hash text")) == 64
        assert client.call(b"what") == b"ERROR unknown command"


@pytest.mark.alone
@pytest.mark.parametrize(
    ("line", "clients"),
    [(b"sleep", 30), (b"get key", 30), (b"hash text", 1)],  # the last one uses a whole core, and there may be only two
    ids=["sleep", "redis", "thread"],
)
def test_other_connections_are_answered_as_before(server: GserverProcess, line: bytes, clients: int) -> None:
    """Rounds with and without blocking clients alternate: the median latency grows by a small factor at most.

    If handlers delayed each other, it would grow a hundredfold: each request of the blocking clients takes 10 to 50 ms.
    """
    steady = Steady(server.address, 10, command=b"echo ")
    ratios = []
    for _ in range(ROUNDS):
        alone = statistics.median(steady.ask_for(ROUND_S))
        with busy_with(server, line, clients) as answers:
            beside = statistics.median(steady.ask_for(ROUND_S))
        assert min(answers) > 0
        ratios.append(beside / alone)
    steady.close()

    print(f"{line!r}: median latency, factors of the rounds: {sorted(round(ratio, 2) for ratio in ratios)}")
    assert statistics.median(ratios) < 10
