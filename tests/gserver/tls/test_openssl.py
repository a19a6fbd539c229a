"""Tests with `openssl s_client`, which can renegotiate, change keys and request old versions; `ssl` cannot."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.errors import TlsError
from gserver.tls.contexts import Tls, TlsConfig
from gserver.tls.session import TlsStream
from tests.helpers.certificates import CertificateFiles, make_certificates

OPENSSL = shutil.which("openssl")
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Session:
    """One connection of `openssl s_client`, controlled by its standard input."""

    def __init__(self, files: CertificateFiles, folder: Path, *arguments: str) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        command = [str(OPENSSL), "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-CAfile", files.ca]
        self._output = folder / "output"
        with listener, self._output.open("wb") as output:
            listener.settimeout(TIMEOUT_S)
            self.process = subprocess.Popen(
                [*command, *arguments], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
            self._socket = listener.accept()[0]
        self._socket.settimeout(TIMEOUT_S)
        self.stream = TlsStream(Tls(TlsConfig(files.certfile, files.keyfile)).context)

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def connect(self) -> None:
        while not self.stream.handshake(self._socket.recv(65536)):
            self._socket.sendall(self.stream.take_outgoing())
        self._socket.sendall(self.stream.take_outgoing())

    def command(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def receive(self) -> tuple[bytes, bytes]:
        """Return the next plaintext, and the bytes to send in reply."""
        plaintext = self.stream.decrypt(self._socket.recv(65536))
        return plaintext, self.stream.take_outgoing()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end(self) -> int:
        self._socket.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def client(request: pytest.FixtureRequest, files: CertificateFiles, tmp_path: Path) -> Iterator[Session]:
    session = Session(files, tmp_path, *request.param)
    yield session
    session.end()


def versions(*arguments: tuple[str, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", arguments, indirect=True, ids=lambda value: " ".join(value))


@versions(("-tls1_2",), ("-tls1_3",))
def test_it_connects_and_talks(client: Session) -> None:
    client.connect()
    client.command("hello\n")

    assert client.receive() == (b"hello\n", b"")
    client.send(client.stream.encrypt(b"good day\n") + client.stream.close_notify())
    client.end()
    assert "good day" in client.output
    assert "Verify return code: 0 (ok)" in client.output


@versions(("-tls1_2",))
def test_renegotiation_is_refused_and_the_connection_lives(client: Session) -> None:
    client.connect()
    client.command("R\n")
    plaintext, owed = client.receive()

    assert plaintext == b""
    assert owed != b""  # the alert no_renegotiation
    client.send(owed)
    client.end()
    assert "no renegotiation" in client.output


@versions(("-tls1_3",))
def test_keys_are_changed_when_the_client_asks(client: Session) -> None:
    client.connect()
    client.command("K\n")
    assert client.receive() == (b"", b"")  # the server's own KeyUpdate goes before its next data (RFC 8446, 4.6.3)
    client.command("hello\n")

    assert client.receive() == (b"hello\n", b"")
    client.send(client.stream.encrypt(b"good day\n") + client.stream.close_notify())
    client.end()
    assert "good day" in client.output


@versions(("-tls1_2", "-cipher", "AES128-SHA"), ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"))
def test_old_versions_and_ciphers_are_refused_with_an_alert(client: Session) -> None:
    with pytest.raises(TlsError, match=r"no cipher in common|offers at most TLSv1\.1, the server needs"):
        client.connect()
    client.send(client.stream.take_outgoing())

    assert client.end() != 0
    assert "alert" in client.output
