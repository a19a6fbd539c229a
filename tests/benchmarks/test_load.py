"""The client, with servers that answer correctly and servers that do not."""

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
    """A server that replies answer(data, number of earlier replies) to each read, and closes the connection for None.

    Yields its port, and a list with the number of bytes that each connection has sent, in the order of their accepts.
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
    with loading(words, sorted(os.sched_getaffinity(0))) as load:
        load.wait_until_ready()
        return load.go()


def failure(client: str, answer: Handler, *more: str) -> str:
    """Return the error message of the client."""
    with answering(answer) as (port, _), pytest.raises(Failed) as failed:
        outcome(command(client, port, *more))
    return str(failed.value)


@pytest.mark.parametrize("size", [1, 64, 300_000])
def test_it_counts_exactly_the_answered_messages(client: str, size: int) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, "--size", str(size)))

    assert found.messages > 0
    assert sum(received) == (found.messages + 2) * size  # each connection was opened with one
    assert 0.05 <= found.elapsed_s < 5
    assert 0 < found.p50_us <= found.p99_us <= found.p999_us
    assert found.client_cpu_s > 0


def test_with_depth_several_messages_are_sent_at_once_and_each_counts(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, "--size", "10", "--depth", "7"))

    assert found.messages % 7 == 0
    assert sum(received) == (found.messages + 2) * 10


def test_the_reply_may_differ_from_the_message(client: str) -> None:
    with answering(lambda data, count: b"pong\n" * data.count(b"\n")) as (port, _):
        found = outcome(command(client, port, "--message", "ping", "--reply", "pong", "--depth", "3"))

    assert found.messages > 0


def test_churn_has_a_connection_for_each_exchange(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, mode="churn"))

    assert received == [64] * found.messages


def test_idle_connections_have_one_exchange_and_are_silent_then(client: str) -> None:
    with answering(echo) as (port, received):
        found = outcome(command(client, port, mode="idle", connections=150))

    assert received == [64] * 150
    assert found.messages == 0


def test_a_broadcast_counts_once_for_each_receiver(client: str) -> None:
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
    """Accept three connections and echo a first message on each; then send every line of the first one to all three."""
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


def test_the_connections_stay_open_until_the_measurement_is_over(client: str) -> None:
    with answering(echo) as (port, _), loading(command(client, port), sorted(os.sched_getaffinity(0))) as load:
        load.wait_until_ready()
        load.go()

        assert established_to(port, load._process.pid) == 2


def established_to(port: int, client: int) -> int:
    """Return the number of connections that a client process has to a port."""
    process = psutil.Process(client)
    connections_of = getattr(process, "net_connections", None) or process.connections  # its name before psutil 6
    found = connections_of("tcp4")
    return sum(each.raddr == ("127.0.0.1", port) and each.status == psutil.CONN_ESTABLISHED for each in found)


def test_a_wrong_answer_is_an_error(client: str) -> None:
    message = failure(client, lambda data, count: data if count < 5 else data.replace(b"a", b"b"))

    assert message == "load: the reply is wrong"


def test_an_answer_that_is_too_long_is_an_error(client: str) -> None:
    assert failure(client, lambda data, count: data + b"more") == "load: the reply is longer than expected"


def test_a_closed_connection_is_an_error(client: str) -> None:
    message = failure(client, lambda data, count: data if count < 5 else None)

    assert message == "load: the server closed a connection"


def test_a_server_that_does_not_listen_is_an_error(client: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Failed, match="Connection refused"):
        outcome(command(client, port))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "ecko"], "load: there is no mode ecko"),
        (["--depth", "0"], "load: 0 is not a number, or is too small"),
        (["--depth", "x"], "load: x is not a number, or is too small"),
        (["--tls"], "load: this program was built without TLS"),
        (["--port", "1"], "load: needs --port, and --message or --size"),
        (["--port", "1", "--size", "1", "--message", "x"], "load: needs --port, and --message or --size"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(client: str, words: list[str], message: str) -> None:
    with pytest.raises(Failed) as failed, loading([client, *words], sorted(os.sched_getaffinity(0))) as load:
        load.wait_until_ready()

    assert str(failed.value) == message


def arguments(job: str, connections: int = 9, payload: int = 64, reply: str = "") -> str:
    return " ".join(arguments_of(Scenario(JOBS[job], connections, payload, 2), 4000, reply, 3.0))


def test_an_echo_has_the_size_of_the_payload() -> None:
    assert arguments("echo") == (
        "--port 4000 --mode exchange --connections 9 --depth 2 --seconds 3.0 --warm-up 0.5 --size 64"
    )


def test_the_expected_sum_is_the_servers_first_reply() -> None:
    assert arguments("json", reply='{"status": "OK"}').endswith(f'--message {SUM} --reply {{"status": "OK"}}')


def test_a_broadcast_is_a_line_of_the_size_of_the_payload() -> None:
    words = arguments_of(Scenario(JOBS["broadcast"], 9, 64, 1), 4000, "", 3.0)
    line = words[words.index("--message") + 1]

    assert line.startswith(CALL)
    assert len(line) == 63  # and the newline
    assert words[words.index("--opening") + 1] == HELLO


def test_idle_has_no_warm_up_and_tls_has_a_flag() -> None:
    assert "--warm-up 0 " in arguments("idle")
    assert arguments("tls").endswith("--tls")


def test_white_space_in_the_json_of_a_sum_does_not_matter() -> None:
    assert is_right(SUM, json.dumps({"result": 30, "status": "OK"}, indent=1))
    assert not is_right(SUM, '{"status":"OK","result":31}')
    assert not is_right(SUM, "OK")
    assert is_right(HELLO, HELLO)
    assert not is_right(HELLO, HELLO.upper())
