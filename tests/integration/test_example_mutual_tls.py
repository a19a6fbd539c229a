"""examples/mutual_tls.py with `openssl s_client` and gserver's Client: who may connect, and who may send what."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from gserver import Client, CloseReason, ConnectionClosed, JsonLines
from gserver.testing import LiveServer, serve
from tests.helpers.examples import EXAMPLES, load_example
from tests.helpers.processes import GserverProcess, wait_for

PATIENCE_S = 60
CHARGE = {"type": "CHARGE", "account": "ada", "cents": 5}
BALANCE = {"type": "BALANCE", "account": "ada"}
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@dataclass
class Authority:
    """An authority that writes its certificates into a folder."""

    folder: Path
    ca: trustme.CA

    @classmethod
    def create(cls, folder: Path) -> Authority:
        folder.mkdir()
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        return cls(folder, ca)

    def issue(self, name: str, *, expired: bool = False) -> str:
        """Write NAME.pem with a certificate and its key; return its path."""
        path = self.folder / f"{name}.pem"
        not_after = datetime.now(UTC) - timedelta(days=1) if expired else None
        self.ca.issue_cert(name, not_after=not_after).private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    def context(self, certificate: str | None) -> ssl.SSLContext:
        """Trust this authority, and present a certificate."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if certificate:
            context.load_cert_chain(certificate)
        return context


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ours")


@pytest.fixture
def server(ours: Authority) -> Iterator[LiveServer]:
    settings: dict[str, Any] = {}
    exec((EXAMPLES / "mutual_tls.conf.py").read_text(), {}, settings)
    del settings["__doc__"]
    settings |= {"certfile": ours.issue("localhost"), "ca_certs": str(ours.folder / "ca.pem")}
    with serve(load_example("mutual_tls").app, **settings) as running:
        yield running


def connect(server: LiveServer, ours: Authority, certificate: str | None) -> Client:
    context = ours.context(certificate)
    return Client(server.address, JsonLines(), PATIENCE_S, ssl_context=context, server_hostname="localhost")


def call(server: LiveServer, ours: Authority, certificate: str | None, message: Any) -> Any:
    with connect(server, ours, certificate) as client:
        return client.call(message)


def test_each_peer_may_send_its_messages(server: LiveServer, ours: Authority) -> None:
    billing, reports, other = (ours.issue(f"{name}.internal") for name in ("billing", "reports", "other"))

    assert call(server, ours, billing, CHARGE) == {"account": "ada", "cents": 5}
    assert call(server, ours, billing, CHARGE) == {"account": "ada", "cents": 10}
    assert call(server, ours, reports, BALANCE) == {"account": "ada", "cents": 10}
    refused = {"status": "ERROR", "message": "reports.internal may not send CHARGE"}
    assert call(server, ours, reports, CHARGE) == refused
    assert call(server, ours, other, BALANCE)["message"] == "other.internal may not send BALANCE"
    assert call(server, ours, reports, BALANCE) == {"account": "ada", "cents": 10}
    assert call(server, ours, billing, {**CHARGE, "cents": 0})["status"] == "ERROR"


@pytest.mark.parametrize("kind", ["none", "expired", "another authority"])
def test_a_peer_without_a_valid_certificate_is_refused(
    server: LiveServer, ours: Authority, tmp_path: Path, kind: str
) -> None:
    others = Authority.create(tmp_path / "others")
    certificate = {
        "none": None,
        "expired": ours.issue("billing.internal", expired=True),
        "another authority": others.issue("billing.internal"),
    }[kind]

    with pytest.raises((OSError, ConnectionClosed)):
        call(server, ours, certificate, BALANCE)
    wait_for(lambda: server.closed.get(CloseReason.HANDSHAKE_FAILED) == 1, "the connection is counted")
    assert call(server, ours, ours.issue("billing.internal"), BALANCE) == {"account": "ada", "cents": 0}


def test_a_certificate_without_a_name_closes_the_connection(server: LiveServer, ours: Authority) -> None:
    with connect(server, ours, ours.issue("me@internal.test")) as client:
        assert client.recv() == {"status": "ERROR", "message": "Internal error"}
        with pytest.raises(ConnectionClosed):
            client.recv()
    assert isinstance(server.errors.pop(), StopIteration)


def test_a_peer_without_tls_gets_no_reply(server: LiveServer) -> None:
    with socket.create_connection(server.address, PATIENCE_S) as sock:
        sock.sendall(json.dumps(BALANCE).encode() + b"\n")
        assert b"account" not in sock.recv(1000)


def test_without_tls_nobody_is_served() -> None:
    with serve(load_example("mutual_tls").app) as plain:
        client = plain.connect()
        assert client.recv() == {"status": "ERROR", "message": "Internal error"}
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert isinstance(plain.errors.pop(), TypeError | AttributeError)


# openssl


def s_client(address: tuple[str, int], folder: Path, *options: str) -> tuple[str, str]:
    """Send BALANCE; return the first line of the reply ("" if the connection ends), and what openssl prints."""
    command = ["openssl", "s_client", "-connect", f"{address[0]}:{address[1]}", "-CAfile", str(folder / "ca.pem")]
    command += ["-verify_return_error", "-verify_hostname", "localhost", "-quiet", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        try:
            process.stdin.write(json.dumps(BALANCE) + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        finally:
            process.kill()
        return reply, process.stderr.read()


@needs_openssl
def test_openssl_with_the_files_of_the_script(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    names = ["localhost", "billing.internal", "reports.internal"]
    subprocess.run(["sh", "mutual_tls_certificates.sh", *names], cwd=tmp_path, check=True, timeout=PATIENCE_S)
    with GserverProcess(tmp_path, "-c", "mutual_tls.conf.py", "mutual_tls:app") as server:
        good = ("-cert", str(tmp_path / "billing.internal.pem"))
        assert s_client(server.address, tmp_path, *good)[0] == '{"account":"ada","cents":0}\n'
        for options, alert in [
            ((), "certificate required"),
            ((*good, "-tls1_2"), "protocol version"),
            (("-cert", Authority.create(tmp_path / "others").issue("billing.internal")), "unknown ca"),
        ]:
            reply, printed = s_client(server.address, tmp_path, *options)
            assert (reply, alert in printed) == ("", True), printed
        server.wait_for_log("presented no certificate")


@needs_openssl
def test_openssl_with_an_expired_certificate(server: LiveServer, ours: Authority) -> None:
    reply, printed = s_client(server.address, ours.folder, "-cert", ours.issue("billing.internal", expired=True))

    assert (reply, "certificate expired" in printed) == ("", True), printed
