"""The client, against servers that do what they should and servers that do not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from benchmarks.failures import Failed
from benchmarks.figures import Outcome
from benchmarks.jobs import JOBS, Scenario
from benchmarks.load import arguments_of, loading
from benchmarks.messages import CALL, HELLO, SUM, is_right
from benchmarks.toolchain import Toolchain

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

Handler = Callable[[bytes, int], "bytes | None"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Toolchain(tmp_path_factory.mktemp("client")).client(tls=False)


@contextmanager
def answering(answer: Handler) -> Iterator[tuple[int, list[int]]]:
    """A server that sends answer(data, how many came before) for what comes, and closes for None.

    Yields its port, and a list with the bytes that each connection has sent, in the order in which they began.
    """
    received: list[int] = []
    threads: list[threading.Thread] = []

    def serve(conn: socket.socket, place: int) -> None:
        count = 0
        with conn, contextlib.suppress(ConnectionResetError):
            while data := conn.recv(1 << 20):
                received[place] += len(data)
                reply = answer(data, count)
                if reply is None:
                    return
                conn.sendall(reply)
                count += 1

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:  # the test is over
                return
            received.append(0)
            threads.append(threading.Thread(target=serve, args=(conn, len(received) - 1)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        acceptor = threading.Thread(target=accept, args=(listener,))
        acceptor.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def echo(data: bytes, count: int) -> bytes:
    return data


def command(client: str, port: int, *more: str, mode: str = "exchange", connections: int = 2) -> list[str]:
    fixed = ["--port", str(port), "--mode", mode, "--connections", str(connections), "--seconds", "0.05"]
    return [client, *fixed, *(more or ("--size", "64"))]


def outcome(words: list[str]) -> Outcome:
    with loading(words, os.sched_getaffinity(0)) as load:
        load.wait_until_ready()
        return load.go()


def failure(client: str, answer: Handler, *more: str) -> str:
    """What the client says when it gives up."""
    with answering(answer) as (port, _), pytest.raises(Failed) as failed:
        outcome(command(client, port, *more))
    return str(failed.value)


@pytest.mark.parametrize("size", [1, 64, 300_000])
def test_it_counts_exactly_what_was_answered(client: str, size: int) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, "--size", str(size)))

    assert found.messages > 0
    assert sum(received) == (found.messages + 2) * size  # each connection was opened with one
    assert 0.05 <= found.elapsed_s < 5
    assert 0 < found.p50_us <= found.p99_us <= found.p999_us
    assert found.client_cpu_s > 0


def test_several_messages_go_at_once_and_each_counts(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, "--size", "10", "--depth", "7"))

    assert found.messages % 7 == 0
    assert sum(received) == (found.messages + 2) * 10


def test_lines_are_answered_with_the_reply_that_is_expected(client: str) -> None:
    with answering(lambda data, count: b"pong\n" * data.count(b"\n")) as (port, _):
        found = outcome(command(client, port, "--message", "ping", "--reply", "pong", "--depth", "3"))

    assert found.messages > 0


def test_churn_has_a_connection_for_each_exchange(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, mode="churn"))

    assert received == [64] * found.messages


def test_the_idle_are_opened_with_one_exchange_and_silent_from_then_on(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, mode="idle", connections=150))

    assert received == [64] * 150
    assert found.messages == 0


def test_a_broadcast_counts_for_everybody_who_gets_it(client: str) -> None:
    members: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=broadcast, args=(listener, members))
        thread.start()
        port = listener.getsockname()[1]
        words = command(client, port, "--message", "to all", "--opening", HELLO, mode="broadcast", connections=3)
        found = outcome(words)
        thread.join()

    assert found.messages > 0
    assert found.messages % 3 == 0


def broadcast(listener: socket.socket, members: list[socket.socket]) -> None:
    """Three connections: each is greeted; what the first says then is said to all."""
    for _ in range(3):
        members.append(listener.accept()[0])
        members[-1].sendall(members[-1].recv(100))
    while line := members[0].recv(100):
        for member in members:
            member.sendall(line)
    for member in members:
        member.close()


def test_a_warm_up_is_not_counted(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, "--size", "64", "--warm-up", "0.05"))

    assert sum(received) > (found.messages + 2) * 64


def test_the_connections_stay_until_the_measurement_is_over(client: str) -> None:
    with answering(echo) as (port, _), loading(command(client, port), os.sched_getaffinity(0)) as load:
        load.wait_until_ready()
        load.go()

        assert established_to(port, load._process.pid) == 2


def established_to(port: int, client: int) -> int:
    """How many connections that process has there."""
    process = psutil.Process(client)
    connections_of = getattr(process, "net_connections", None) or process.connections  # its name before psutil 6
    found = connections_of("tcp4")
    return sum(each.raddr == ("127.0.0.1", port) and each.status == psutil.CONN_ESTABLISHED for each in found)


def test_a_wrong_answer_ends_it(client: str) -> None:
    said = failure(client, lambda data, count: data if count < 5 else data.replace(b"a", b"b"))

    assert said == "load: the server gave a wrong answer"


def test_an_answer_that_is_too_long_ends_it(client: str) -> None:
    assert failure(client, lambda data, count: data + b"more") == "load: the server answered more than was asked"


def test_a_connection_that_is_closed_ends_it(client: str) -> None:
    said = failure(client, lambda data, count: data if count < 5 else None)

    assert said == "load: the server closed a connection"


def test_a_server_that_is_not_there_ends_it(client: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Failed, match="Connection refused"):
        outcome(command(client, port))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mode", "ecko"], "load: there is no mode ecko"),
        (["--depth", "0"], "load: 0 is not a number, or too small"),
        (["--depth", "x"], "load: x is not a number, or too small"),
        (["--tls"], "load: this program was built without TLS"),
        (["--port", "1"], "load: needs --port, and --message or --size"),
        (["--port", "1", "--size", "1", "--message", "x"], "load: needs --port, and --message or --size"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(client: str, words: list[str], said: str) -> None:
    with pytest.raises(Failed) as failed, loading([client, *words], os.sched_getaffinity(0)) as load:
        load.wait_until_ready()

    assert str(failed.value) == said


def arguments(job: str, connections: int = 9, payload: int = 64, reply: str = "") -> str:
    return " ".join(arguments_of(Scenario(JOBS[job], connections, payload, 2), 4000, reply, 3.0))


def test_an_echo_is_of_so_many_bytes() -> None:
    assert arguments("echo") == (
        "--port 4000 --mode exchange --connections 9 --depth 2 --seconds 3.0 --warm-up 0.5 --size 64"
    )


def test_a_sum_is_answered_as_the_server_answered_before() -> None:
    assert arguments("json", reply='{"status": "OK"}').endswith(f'--message {SUM} --reply {{"status": "OK"}}')


def test_a_broadcast_is_a_line_of_the_size_that_was_asked_for() -> None:
    words = arguments_of(Scenario(JOBS["broadcast"], 9, 64, 1), 4000, "", 3.0)
    line = words[words.index("--message") + 1]

    assert line.startswith(CALL)
    assert len(line) == 63  # and the newline
    assert words[words.index("--opening") + 1] == HELLO


def test_the_idle_are_not_warmed_up_and_tls_is_said() -> None:
    assert "--warm-up 0 " in arguments("idle")
    assert arguments("tls").endswith("--tls")


def test_a_sum_is_right_however_its_json_is_spaced() -> None:
    assert is_right(SUM, json.dumps({"result": 30, "status": "OK"}, indent=1))
    assert not is_right(SUM, '{"status":"OK","result":31}')
    assert not is_right(SUM, "OK")
    assert is_right(HELLO, HELLO)
    assert not is_right(HELLO, HELLO.upper())
