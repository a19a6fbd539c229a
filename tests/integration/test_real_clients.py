"""gserver with existing clients: logger, Python's logging, ncat, socat, openssl."""

from __future__ import annotations

import io
import logging
import logging.handlers
import pickle
import random
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver import codecs
from gserver.config.settings import declared
from tests.helpers.peers import converse, need
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for

pytestmark = pytest.mark.long

SETTINGS = {setting.name for setting in declared()}

#: A service that writes received messages to a file and sends no replies.
COLLECTOR = """
from functools import partial
from gserver import Service
from gserver import codecs

def write_down(message, conn):
    with open("heard", "a") as file:
        print(message.hex(), file=file)

app = Service(write_down, {codec})
"""


class Collector:
    """A server that collects messages."""

    def __init__(self, folder: Path, server: GserverProcess) -> None:
        self._file = folder / "heard"
        self.host, self.port = server.address

    def heard(self, count: int) -> list[bytes]:
        """Wait for `count` messages; return all messages."""
        wait_for(lambda: self._text().count("\n") >= count, f"{count} messages were heard")
        return [bytes.fromhex(line) for line in self._text().splitlines()]

    def _text(self) -> str:
        return self._file.read_text() if self._file.exists() else ""


@pytest.fixture
def collector(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Collector]:
    """A collector with the codec of the parameter."""
    (tmp_path / "app.py").write_text(COLLECTOR.replace("{codec}", request.param))
    with GserverProcess(tmp_path, "app:app") as server:
        yield Collector(tmp_path, server)
        assert "errors 0" in stopped(server)


def stopped(server: GserverProcess) -> str:
    """Stop a server; return its log, with the totals."""
    server.process.terminate()
    return ended(server)


def ended(server: GserverProcess) -> str:
    assert server.wait() == 0
    return server.log


# logger, of util-linux

RFC3164 = rb"<13>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ tag: "
RFC5424 = rb"<13>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+[+-]\d\d:\d\d \S+ tag - - \[timeQuality [^]]+\] "
TEXTS = [f"message {number} \N{SNOWMAN} {'x' * number}" for number in range(300)]


def log_with_logger(collector: Collector, *options: str) -> None:
    """Send each of the texts as a message, over one connection."""
    command = ["logger", "-n", collector.host, "-P", str(collector.port), "-T", "-t", "tag", *options]
    assert converse(command, "".join(f"{text}\n" for text in TEXTS).encode()) == b""


@need("logger")
@pytest.mark.parametrize("collector", ["codecs.Lines"], indirect=True)
@pytest.mark.parametrize(("form", "head"), [("--rfc3164", RFC3164), ("--rfc5424", RFC5424)])
def test_logger_sends_lines(collector: Collector, form: str, head: bytes) -> None:
    log_with_logger(collector, form)

    check_messages(collector.heard(len(TEXTS)), head)


@need("logger")
@pytest.mark.skipif(not hasattr(codecs, "OctetCounted"), reason="there is no codec OctetCounted")
@pytest.mark.parametrize("collector", ["codecs.OctetCounted"], indirect=True)
@pytest.mark.parametrize(("form", "head"), [("--rfc3164", RFC3164), ("--rfc5424", RFC5424)])
def test_logger_counts_octets(collector: Collector, form: str, head: bytes) -> None:
    """RFC 6587, 3.4.1."""
    log_with_logger(collector, form, "--octet-count")

    check_messages(collector.heard(len(TEXTS)), head)


def check_messages(heard: list[bytes], head: bytes) -> None:
    assert len(heard) == len(TEXTS)
    for message, text in zip(heard, TEXTS, strict=True):
        assert re.fullmatch(head + re.escape(text.encode()), message), message


# logging.handlers of Python


class PlainUnpickler(pickle.Unpickler):
    """Loads only plain data: numbers, texts and containers."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")


@pytest.mark.parametrize("collector", ["codecs.LengthPrefixed"], indirect=True)
def test_python_sends_log_records_with_a_length_prefix(collector: Collector) -> None:
    """From several threads; the records of each thread arrive in order."""
    logger = logging.Logger("of.several")
    handler = logging.handlers.SocketHandler(collector.host, collector.port)
    logger.addHandler(handler)

    def speak(name: str) -> None:
        for number in range(50):
            logger.warning("number %d of %s \N{SNOWMAN}", number, name)

    threads = [threading.Thread(target=speak, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    handler.close()
    records = [PlainUnpickler(io.BytesIO(message)).load() for message in collector.heard(200)]

    assert {(record["name"], record["levelname"]) for record in records} == {("of.several", "WARNING")}
    said = [logging.makeLogRecord(record).getMessage() for record in records]
    for name in "abcd":
        assert [text for text in said if f"of {name}" in text] == [f"number {n} of {name} \u2603" for n in range(50)]


@pytest.mark.parametrize("collector", ["partial(codecs.LengthPrefixed, max_bytes=2**24)"], indirect=True)
def test_python_sends_an_exception_and_a_long_record(collector: Collector) -> None:
    logger = logging.Logger("one")
    handler = logging.handlers.SocketHandler(collector.host, collector.port)
    logger.addHandler(handler)
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("x" * 2**21)
    handler.close()
    (message,) = collector.heard(1)
    record = PlainUnpickler(io.BytesIO(message)).load()

    assert record["msg"] == "x" * 2**21
    assert record["exc_text"].endswith("ValueError: wrong")


# ncat and socat

CLIENTS = [
    pytest.param(["ncat", "{host}", "{port}"], id="ncat", marks=need("ncat")),
    pytest.param(["ncat", "-U", "{path}"], id="ncat over a unix socket", marks=need("ncat")),
    pytest.param(["socat", "-t{wait}", "-", "TCP:{host}:{port}"], id="socat", marks=need("socat")),
    pytest.param(["socat", "-t{wait}", "-", "UNIX-CONNECT:{path}"], id="socat over a unix socket", marks=need("socat")),
]
LINES = b"".join(
    b"%d " % number + random.Random(number).randbytes(number).hex().encode() + b"\n" for number in range(500)
)


LINE_ECHO = """
from gserver import Lines, Service
app = Service(lambda line, conn: line, Lines)
"""


def addressed(command: list[str], server: GserverProcess, folder: Path, wait_s: int = 20) -> list[str]:
    """Fill in the address. wait_s: how long socat waits for the end of one side after the other has ended."""
    host, port = server.address
    return [word.format(host=host, port=port, path=folder / "socket", wait=wait_s) for word in command]


@pytest.mark.parametrize("command", CLIENTS)
@pytest.mark.parametrize(
    ("app", "said", "heard"),
    [
        ("echo", b"x\n", b"x\n"),
        ("echo", b"", b""),
        ("echo", random.Random(1).randbytes(3_000_000), random.Random(1).randbytes(3_000_000)),
        ("lines:app", LINES + b"\r\n", LINES + b"\n"),
        ("json", b'{"type":"SUM","a":10,"b":20}\n' * 2, b'{"status":"OK","result":30}\n' * 2),
    ],
    ids=["a line", "nothing", "3 MB", "500 lines", "json"],
)
def test_a_client_that_half_closes_receives_all_replies_and_then_eof(
    tmp_path: Path, command: list[str], app: str, said: bytes, heard: bytes
) -> None:
    (tmp_path / "lines.py").write_text(LINE_ECHO)
    with GserverProcess(tmp_path, app, "-b", "unix:socket") as server:
        assert converse(addressed(command, server, tmp_path), said) == heard
        assert "errors 0, accepted 1, open 0, closed: peer_eof 1" in stopped(server)


@pytest.mark.parametrize("command", CLIENTS)
def test_a_connected_client_receives_eof_when_the_server_stops(tmp_path: Path, command: list[str]) -> None:
    with (
        GserverProcess(tmp_path, "echo", "-b", "unix:socket", "--drain-spread", "0") as server,
        subprocess.Popen(
            addressed(command, server, tmp_path, wait_s=1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        for line in (b"one\n", b"two\n"):
            client.stdin.write(line)
            assert client.stdout.read(100) == line
        server.process.terminate()
        assert client.stdout.read() == b""
        client.stdin.close()
        assert client.wait(PATIENCE_S) == 0
        assert "closed: drained 1" in ended(server)


# TLS

ANSWERS_ONE_LINE = """
from gserver import Lines, stream

@stream(codec=Lines)
def app(conn):
    conn.send(b"heard " + next(conn))
"""
TLS_CLIENTS = [
    pytest.param(
        [
            *("openssl", "s_client", "-quiet", "-connect", "{host}:{port}", "-servername", "localhost"),
            *("-CAfile", "{cert}", "-verify_return_error", "-verify_hostname", "localhost"),
        ],
        id="openssl",
        marks=need("openssl"),
    ),
    pytest.param(
        ["ncat", "--ssl-verify", "--ssl-trustfile", "{cert}", "--ssl-servername", "localhost", "localhost", "{port}"],
        id="ncat",
        marks=need("ncat"),
    ),
    pytest.param(
        ["socat", "-t20", "-", "OPENSSL:{host}:{port},cafile={cert},commonname=localhost"],
        id="socat",
        marks=need("socat"),
    ),
]


@need("openssl")
@pytest.mark.skipif("certfile" not in SETTINGS, reason="there is no TLS")
@pytest.mark.parametrize("command", TLS_CLIENTS)
@pytest.mark.parametrize("size", [10, 60_000])
def test_a_client_that_checks_the_certificate_is_answered_over_tls(
    tmp_path: Path, certificate: tuple[Path, Path], command: list[str], size: int
) -> None:
    certfile, keyfile = certificate
    (tmp_path / "app.py").write_text(ANSWERS_ONE_LINE)
    with GserverProcess(tmp_path, "app:app", "--certfile", str(certfile), "--keyfile", str(keyfile)) as server:
        host, port = server.address
        words = [word.format(host=host, port=port, cert=certfile) for word in command]

        assert converse(words, b"x" * size + b"\n") == b"heard " + b"x" * size + b"\n"
        assert "errors 0, accepted 1" in stopped(server)
