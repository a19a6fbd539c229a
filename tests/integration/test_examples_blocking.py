"""examples/blocking.py: handlers that wait keep nobody waiting but their own connection."""

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
    """Answers GET with the key, after a moment; a thread for each connection. Closes: leaving the `with`."""

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
def busy_with(server: GserverProcess, question: bytes, clients: int) -> Iterator[list[int]]:
    """So many that ask this, one question after the other; how many answers each has had, at the end."""
    over = threading.Event()
    answers = [0] * clients

    def ask(number: int) -> None:
        with Client(server.address, Lines()) as client:
            while not over.is_set():
                assert not client.call(question).startswith(b"ERROR")
                answers[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
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
    ("question", "clients"),
    [(b"sleep", 30), (b"get key", 30), (b"hash text", 1)],  # the last takes a processor, of which there may be two
    ids=["sleep", "redis", "thread"],
)
def test_who_does_not_wait_is_answered_as_before(server: GserverProcess, question: bytes, clients: int) -> None:
    """Rounds with and without clients that wait, in turns: the median answer takes a few times as long at the most.

    If handlers kept each other waiting it would be a hundred times: every question of the others takes 10 to 50 ms.
    """
    steady = Steady(server.address, 10, command=b"echo ")
    ratios = []
    for _ in range(ROUNDS):
        alone = statistics.median(steady.ask_for(ROUND_S))
        with busy_with(server, question, clients) as answers:
            beside = statistics.median(steady.ask_for(ROUND_S))
        assert min(answers) > 0
        ratios.append(beside / alone)
    steady.close()

    print(f"{question!r}: the median answer takes {sorted(round(ratio, 2) for ratio in ratios)} times as long")
    assert statistics.median(ratios) < 10
