"""The client, against the real server and against servers that misbehave."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import CODECS, Codec, JsonLines, Lines, Malformed
from gserver.errors import ConnectionClosed, FrameTooLarge, IncompleteMessage, NoReply, NotSent
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.processes import GserverProcess, wait_for


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GserverProcess]:
    with GserverProcess(tmp_path_factory.mktemp("echo"), "echo") as server:
        yield server


@pytest.fixture(scope="module")
def json(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GserverProcess]:
    with GserverProcess(tmp_path_factory.mktemp("json"), "json") as server:
        yield server


def serve_once(behave: Callable[[socket.socket], object]) -> tuple[str, int]:
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
    address = serve_once(lambda client: done.wait(10))
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


def test_a_server_that_has_closed_before_the_message_is_not_sent() -> None:
    """Its last words can still be received."""
    with Client(serve_once(lambda client: client.sendall(b"full\n")), Lines()) as client:
        wait_for(lambda: not client.connected, "the end has arrived")

        with pytest.raises(NotSent, match="nothing was sent: the server closed the connection"):
            client.call(b"?")
        assert list(client) == [b"full"]


@pytest.mark.parametrize("sent", [b"", b"half a re"])
def test_a_server_that_closes_after_the_message_is_no_reply(sent: bytes) -> None:
    def behave(client: socket.socket) -> None:
        client.recv(100)
        client.sendall(sent)

    with Client(serve_once(behave), Lines()) as client:
        with pytest.raises(NoReply, match="was sent, and may have been executed: the server closed the connection"):
            client.call(b"?")
        assert not client.connected
        with pytest.raises(NotSent):
            client.send(b"again")


def test_a_message_sent_in_part_is_no_reply() -> None:
    """The server reads the beginning, and resets the connection while the client still writes."""

    def behave(client: socket.socket) -> None:
        client.recv(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Client(serve_once(behave), Lines()) as client, pytest.raises(NoReply):
        client.send(b"x" * 50_000_000)


def test_after_a_timeout_nothing_more_is_sent() -> None:
    """The late reply would be taken for that of the next message."""
    done = threading.Event()
    address = serve_once(lambda client: done.wait(60))
    with Client(address, timeout_s=0.1) as client:
        with pytest.raises(TimeoutError):
            client.call(b"?")
        assert not client.connected
        with pytest.raises(NotSent, match=r"an earlier call failed: TimeoutError: no answer within 0\.1 s"):
            client.call(b"?")
        done.set()


def test_after_close_it_is_not_connected() -> None:
    client = Client(serve_once(lambda client: None))
    client.close()
    client.close()

    assert not client.connected
    with pytest.raises(NotSent, match="this client has closed the connection"):
        client.send(b"?")
    with pytest.raises(ConnectionClosed):
        client.recv()


def test_a_message_that_cannot_be_encoded_changes_nothing(echo: GserverProcess) -> None:
    with Client(echo.address, Lines()) as client:
        with pytest.raises(TypeError):
            client.pipeline([b"never sent", 3])
        assert client.call(b"next") == b"next"


def test_pushes_are_no_replies() -> None:
    def behave(client: socket.socket) -> None:
        client.sendall(b"!early\n")
        client.recv(100)
        client.sendall(b"!one\nreply\n!two\n")

    pushes: list[bytes] = []

    def on_push(line: bytes) -> bool:
        if is_push := line.startswith(b"!"):
            pushes.append(line)
        return is_push

    with Client(serve_once(behave), Lines(), on_push=on_push) as client:
        assert client.call(b"?") == b"reply"
        assert list(client) == []
    assert pushes == [b"!early", b"!one", b"!two"]


def test_pushes_do_not_extend_the_time_for_a_reply() -> None:
    done = threading.Event()

    def behave(client: socket.socket) -> None:
        while not done.wait(0.01):
            client.sendall(b"!\n")

    with Client(serve_once(behave), Lines(), timeout_s=0.2, on_push=lambda line: True) as client:
        with pytest.raises(TimeoutError):
            client.call(b"?")
        done.set()


def test_a_pipeline_keeps_the_order(echo: GserverProcess) -> None:
    messages = [b"%d" % number for number in range(10_000)]
    with Client(echo.address, Lines()) as client:
        assert client.pipeline(messages) == messages
        assert client.pipeline([]) == []
        assert client.call(b"after") == b"after"
        assert client.connected


def echo_with_a_full_stop(client: socket.socket) -> None:
    """Read nothing while a reply is not sent, as a server with back-pressure."""
    while data := client.recv(65536):
        client.sendall(data)


def test_a_pipeline_of_more_than_all_buffers_does_not_block() -> None:
    messages = [b"x" * 9_999] * 6000
    with Client(serve_once(echo_with_a_full_stop), Lines()) as client:
        assert client.pipeline(messages) == messages


def test_a_pipeline_over_tls_of_more_than_all_buffers_does_not_block(tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    messages = [b"x" * 9_999] * 6000
    address = serve_once(over_tls(files, echo_with_a_full_stop))
    with Client(address, Lines(), ssl_context=files.client_context()) as client:
        assert client.pipeline(messages) == messages


def test_the_replies_before_the_end_are_in_the_error() -> None:
    def behave(client: socket.socket) -> None:
        client.recv(100)
        client.sendall(b"one\ntwo\n")

    with Client(serve_once(behave), Lines()) as client, pytest.raises(NoReply) as caught:
        client.pipeline([b"1", b"2", b"3"])

    assert caught.value.replies == [b"one", b"two"]


def test_two_threads_that_receive_are_an_error() -> None:
    done = threading.Event()
    with Client(serve_once(lambda client: done.wait(60))) as client:
        receiver = threading.Thread(target=lambda: list(client))
        receiver.start()
        wait_for(client._reads.locked, "it receives")
        with pytest.raises(RuntimeError, match="another thread receives on this connection"):
            client.recv()
        assert client.connected, "the receiver looks, not the caller"
        done.set()
        receiver.join()


def over_tls(files: CertificateFiles, behave: Callable[[socket.socket], object]) -> Callable[[socket.socket], object]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.combined)

    def serve(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as encrypted:
            behave(encrypted)

    return serve


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, files: CertificateFiles) -> Iterator[GserverProcess]:
    """An echo server that requires client certificates."""
    options = ("--certfile", files.combined, "--ca-certs", files.ca, "--cert-reqs", "required")
    with GserverProcess(tmp_path_factory.mktemp("mutual"), "echo", *options) as server:
        yield server


def test_tls_with_a_client_certificate(mutual: GserverProcess, files: CertificateFiles) -> None:
    context = files.client_context(with_certificate=True)
    with Client(mutual.address, Lines(), ssl_context=context) as client:
        assert client.call(b"hello") == b"hello"
        messages = [b"%d" % number * 100 for number in range(20_000)]
        assert client.pipeline(messages) == messages
        client.send(b"last words")
        client.finish()
        assert list(client) == [b"last words"]


def test_a_refused_client_certificate_is_connection_closed(mutual: GserverProcess, files: CertificateFiles) -> None:
    """With TLS 1.3 the server refuses it after the client's handshake."""
    client = Client(mutual.address, Lines(), ssl_context=files.client_context())
    with client, pytest.raises(ConnectionClosed, match="certificate required"):
        client.recv()


def test_the_server_name_must_be_that_of_the_certificate(mutual: GserverProcess, files: CertificateFiles) -> None:
    context = files.client_context(with_certificate=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        Client(mutual.address, ssl_context=context, server_hostname="example.test")
    with Client(mutual.address, Lines(), ssl_context=context, server_hostname="localhost") as client:
        assert client.call(b"hello") == b"hello"


def test_a_server_without_tls_fails_the_handshake(echo: GserverProcess, files: CertificateFiles) -> None:
    with pytest.raises(OSError):
        Client(echo.address, ssl_context=files.client_context(), timeout_s=0.5)


def test_the_end_over_tls_is_found_before_a_message_is_sent(files: CertificateFiles) -> None:
    address = serve_once(over_tls(files, lambda client: client.sendall(b"full\n")))
    with Client(address, Lines(), ssl_context=files.client_context()) as client:
        wait_for(lambda: not client.connected, "the end has arrived")
        with pytest.raises(NotSent):
            client.call(b"?")
        assert client.recv() == b"full"


def run_client(
    address: tuple[str, int] | str, codec: str, text: bytes, *options: str
) -> subprocess.CompletedProcess[bytes]:
    where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
    command = [sys.executable, "-m", "gserver.client", where, "--codec", codec, *options]
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


def test_the_command_connects_with_tls(mutual: GserverProcess, files: CertificateFiles) -> None:
    certificate = ("--cert", files.client_certfile, "--key", files.client_keyfile)
    for options in (
        ("--ca", files.ca, *certificate),
        ("--ca", files.ca, "--server-name", "localhost", *certificate),
        ("--no-verify", *certificate),
    ):
        ended = run_client(mutual.address, "lines", b"hello\n", "--tls", *options)

        assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"hello\n", b"")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--tls"], 1, rb"certificate verify failed"),
        (["--tls", "--ca", "CA", "--server-name", "example.test"], 1, rb"Hostname mismatch"),
        (["--tls", "--ca", "CA"], 1, rb"certificate required"),
        (["--tls", "--ca", "/nowhere"], 1, rb"--ca '/nowhere' cannot be used: .*No such file"),
        (["--tls", "--ca", "KEY"], 1, rb"--ca '.*' cannot be used"),
        (["--tls", "--cert", "/nowhere", "--key", "KEY"], 1, rb"--cert '/nowhere' --key '.*' cannot be used"),
        (["--tls", "--key", "KEY"], 2, rb"--key needs --cert"),
        (["--ca", "CA"], 2, rb"--ca needs --tls"),
        (["--no-verify"], 2, rb"--no-verify needs --tls"),
        (["--nonsense"], 2, rb"unrecognized arguments: --nonsense"),
        (["--timeout", "soon"], 2, rb"invalid float value: 'soon'"),
    ],
)
def test_each_mistake_with_tls_is_one_line(
    mutual: GserverProcess, files: CertificateFiles, options: list[str], status: int, says: bytes
) -> None:
    paths = {"CA": files.ca, "KEY": files.client_keyfile}
    ended = run_client(mutual.address, "lines", b"hello\n", *(paths.get(option, option) for option in options))

    assert (ended.returncode, ended.stderr.count(b"\n")) == (status, 1), ended.stderr
    assert re.search(says, ended.stderr), ended.stderr


def test_a_reader_that_has_gone_is_one_line(echo: GserverProcess) -> None:
    text = (b"x" * 999 + b"\n") * 2000
    address = f"{echo.address[0]}:{echo.address[1]}"
    ended = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m gserver.client {address} | head -c 1; exit ${{PIPESTATUS[0]}}"],
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr == f"gserver.client: {address}: cannot write to standard output: Broken pipe\n".encode()


def test_a_unix_socket_needs_a_server_name_with_tls(tmp_path: Path) -> None:
    ended = run_client(f"unix:{tmp_path}/socket", "lines", b"", "--tls")

    assert ended.returncode == 2
    assert b"--tls needs --server-name or --no-verify there" in ended.stderr
