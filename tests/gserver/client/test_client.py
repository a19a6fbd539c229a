"""The client, against the real server and against servers that misbehave."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import CODECS, Codec, JsonLines, Lines, Malformed
from gserver.errors import ConnectionClosed, FrameTooLarge, IncompleteMessage
from tests.helpers.processes import GserverProcess


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GserverProcess]:
    with GserverProcess(tmp_path_factory.mktemp("echo"), "echo") as server:
        yield server


@pytest.fixture(scope="module")
def json(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GserverProcess]:
    with GserverProcess(tmp_path_factory.mktemp("json"), "json") as server:
        yield server


def serve_once(behave: Callable[[socket.socket], None]) -> tuple[str, int]:
    """The address of a server that runs `behave` for its first client, then closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = listener.getsockname()

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            behave(client)

    threading.Thread(target=serve, daemon=True).start()
    return address


@pytest.mark.parametrize("codec", [codec for name, codec in CODECS.items() if name not in ("raw", "json_lines")])
def test_a_call_returns_the_answer(echo: GserverProcess, codec: Callable[[], Codec]) -> None:
    with Client(echo.address, codec()) as client:
        for message in (b"one", b"two", b"x" * 50_000):
            assert client.call(message) == message


def test_messages_sent_in_one_go_are_answered_in_order(json: GserverProcess) -> None:
    with Client(json.address, JsonLines()) as client:
        client.send({"type": "GREETING", "name": "Zoë"})
        client.send({"type": "SUM", "a": 1, "b": 2.5})

        assert client.recv() == {"status": "OK", "reply": "Hello, Zoë!"}
        assert client.recv() == {"status": "OK", "result": 3.5}


def test_after_a_half_close_the_answers_still_come(echo: GserverProcess) -> None:
    with Client(echo.address, Lines()) as client:
        client.send(b"last words")
        client.finish()

        assert list(client) == [b"last words"]


def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    done = threading.Event()
    address = serve_once(lambda client: done.wait(10) and None)
    with Client(address, timeout_s=0.1) as client, pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        client.call(b"?")
    done.set()


def test_a_server_that_closes_is_connection_closed() -> None:
    with Client(serve_once(lambda client: None)) as client, pytest.raises(ConnectionClosed):
        client.recv()


def test_a_server_that_stops_inside_a_message_is_incomplete() -> None:
    address = serve_once(lambda client: client.sendall(b"half a li"))
    with Client(address, Lines()) as client, pytest.raises(IncompleteMessage, match="9 bytes into a line"):
        client.recv()


def test_an_answer_over_the_maximum_is_too_large() -> None:
    address = serve_once(lambda client: client.sendall(b"12345\n"))
    with Client(address, Lines(4)) as client, pytest.raises(FrameTooLarge, match="5 bytes, the limit is 4"):
        client.recv()


def test_an_answer_that_is_not_json_is_malformed() -> None:
    address = serve_once(lambda client: client.sendall(b"no\n"))
    with Client(address, JsonLines()) as client:
        assert isinstance(client.recv(), Malformed)


def run_client(address: tuple[str, int] | str, codec: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
    command = [sys.executable, "-m", "gserver.client", where, "--codec", codec]
    return subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)


def test_the_command_sends_a_line_and_prints_the_reply(echo: GserverProcess) -> None:
    ended = run_client(echo.address, "lines", b"Hello, server!\n")

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"Hello, server!\n", b"")


def test_the_command_asks_in_json_in_one_go(json: GserverProcess) -> None:
    ended = run_client(
        json.address, "json_lines", b'{"type": "GREETING", "name": "Alice"}\n{"type": "SUM", "a": 10, "b": 20}\n'
    )

    assert ended.stdout == b'{"status":"OK","reply":"Hello, Alice!"}\n{"status":"OK","result":30}\n'


def test_the_command_does_not_block_on_more_than_the_buffers_hold(echo: GserverProcess) -> None:
    text = (b"x" * 999 + b"\n") * 20_000

    assert run_client(echo.address, "lines", text).stdout == text


@pytest.mark.parametrize(
    ("address", "codec", "text", "says"),
    [
        ("127.0.0.1:1", "lines", b"", b"gserver.client: 127.0.0.1:1: [Errno 111] Connection refused\n"),
        ("nowhere", "lines", b"", b"gserver.client: nowhere: 'nowhere' has no port: expected HOST:PORT"),
        ("127.0.0.1:1", "morse", b"", b"unknown codec 'morse': expected one of raw, lines, length, json_lines"),
    ],
)
def test_the_commands_errors_are_one_line(address: str, codec: str, text: bytes, says: bytes) -> None:
    ended = run_client(address, codec, text)

    assert ended.returncode == 1
    assert says in ended.stderr
    assert ended.stderr.count(b"\n") == 1


def test_the_command_refuses_input_that_is_not_json(json: GserverProcess) -> None:
    ended = run_client(json.address, "json_lines", b"not json\n")

    assert ended.returncode == 1
    assert b"is not JSON" in ended.stderr


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", bind=f"unix:{tmp_path}/socket"):
        ended = run_client(f"unix:{tmp_path}/socket", "lines", b"here\n")

    assert ended.stdout == b"here\n"
