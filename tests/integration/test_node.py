"""Real Node clients receive the same bytes from gserver as from a Node server for the same protocol."""

from __future__ import annotations

import json as standard
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.codecs import JsonLines
from gserver.handlers import json
from tests.helpers.processes import GserverProcess

NODE = Path(__file__).parents[1] / "node"
PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

GREETING = b'{"type":"GREETING","name":"Alice"}\n'
SUM = b'{"type":"SUM","a":10,"b":20}\n'
UMLAUTS = '{"type":"GREETING","name":"Žoë 🎈"}\n'.encode()


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


CONVERSATIONS = {
    "greeting": [GREETING],
    "sum": [SUM],
    "both in one segment": [GREETING + SUM],
    "spaces and another order": [b' { "name" : "Bob" , "type" : "GREETING" } \n'],
    "escapes": [b'{"type":"GREETING","name":"\\u00e9 \\"quoted\\" \\\\ \\n"}\n'],
    "crlf": [GREETING.replace(b"\n", b"\r\n") + SUM],
    "numbers": [b'{"type":"SUM","a":0.1,"b":0.2}\n{"type":"SUM","a":-5,"b":5}\n{"type":"SUM","a":1.5,"b":2.25}\n'],
    "unknown type": [b'{"type":"DANCE"}\n'],
    "no type": [b"{}\n[]\n3\ntrue\n" + b'"text"\n'],
    "type of another kind": [b'{"type":3}\n{"type":[1]}\n{"type":null}\n'],
    "malformed": [b"hello\n", b"{'type':1}\n", b'{"type":"SUM"\n', b"{}}\n", b"\n", SUM],
    "malformed between good ones": [GREETING + b"oops\n" + SUM],
    "cut in the middle": [SUM[:7], SUM[7:]],
    "cut at the newline": [SUM[:-1], b"\n"],
    "cut inside a character": [UMLAUTS[:29], UMLAUTS[29:30], UMLAUTS[30:]],
    "byte by byte": bytewise(UMLAUTS + SUM),
    "one and a half, then the rest": [GREETING + SUM[:11], SUM[11:] + GREETING],
    "end inside a line that was never finished": [GREETING, b""],
}


@pytest.fixture(scope="module")
def gserver_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with GserverProcess(tmp_path_factory.mktemp("json"), "json") as server:
        yield server.address[1]


@pytest.fixture(scope="module")
def node_port() -> Iterator[int]:
    with subprocess.Popen(["node", str(NODE / "json_server.js")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def ask(port: int, chunks: list[bytes], waits_for_replies: bool = False) -> bytes:
    """Return everything that a Node client receives from the server at `port`.

    waits_for_replies: send each chunk after the reply to the one before, instead of after a pause.
    """
    pause = "reply" if waits_for_replies else "2" if len(chunks) > 5 else "20"
    command = ["node", str(NODE / "client.js"), str(port), pause, *(chunk.hex() for chunk in chunks)]
    ended = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_gserver_answers_as_node_does(gserver_port: int, node_port: int, name: str) -> None:
    chunks = CONVERSATIONS[name]
    expected = ask(node_port, chunks)

    assert expected
    assert ask(gserver_port, chunks) == expected


def test_a_node_client_receives_its_echo(tmp_path: Path) -> None:
    """Lines are echoed, and the server closes after the client's half-close."""
    with GserverProcess(tmp_path, "echo") as server:
        assert ask(server.address[1], [b"Hello, server!\n", bytes(range(256))]) == b"Hello, server!\n" + bytes(
            range(256)
        )


def test_each_chunk_gets_the_prefix(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo(prefix='Echo: ')") as server:
        # With a pause, a server that is 20 ms late would read both chunks as one.
        answer = ask(server.address[1], [b"Hello", b"again"], waits_for_replies=True)

    assert answer == b"Echo: HelloEcho: again"


ADD = """
const lines = require('readline').createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const { a, b } = JSON.parse(line);
  console.log(JSON.stringify(a + b));
});
"""
#: Numbers at which the notation changes, and the limits of doubles.
EDGES = [0, -0.0, 1, -1, 1e21, 1e20, 999999999999999868928.0, 1e-6, 9.999e-7, 1e-7, 5e-324, 1.7976931348623157e308]
EDGES += [2**52, 2**52 - 1, 2**53, 2**53 - 1, 2**53 + 1, 2**63, 2**64, 0.1, 0.2, 123456789012345680000, 1e308]


def some_number(chance: random.Random) -> int | float:
    kind = chance.randrange(5)
    if kind == 0:
        edge = chance.choice(EDGES)
        return -edge if chance.random() < 0.3 else edge
    if kind == 1:
        return chance.randint(-(2**64), 2**64)
    if kind == 2:
        return chance.randint(-(10**6), 10**6) / chance.choice([1, 3, 10, 1000])
    if kind == 3:
        return chance.uniform(-1, 1) * 10 ** chance.randint(-12, 25)
    while True:  # any double
        (number,) = struct.unpack("d", chance.randbytes(8))
        if abs(number) < float("inf"):
            return float(number)


def test_sums_are_formatted_as_by_node() -> None:
    chance = random.Random(20)
    pairs = [(some_number(chance), some_number(chance)) for _ in range(20_000)]
    lines = [standard.dumps({"type": "SUM", "a": a, "b": b}).encode() + b"\n" for a, b in pairs]
    ended = subprocess.run(["node", "-e", ADD], input=b"".join(lines), capture_output=True, timeout=60, check=True)
    service, codec = json(), JsonLines(max_bytes=1000)

    def answer(line: bytes) -> str:
        codec.receive(line)
        (message,) = codec.messages()
        conn: Any = None
        return codec.encode(service.on_message(message, conn)).decode().strip()

    for line, result in zip(lines, ended.stdout.decode().split(), strict=True):
        finite = f'{{"status":"OK","result":{result}}}'
        not_finite = '{"status":"ERROR","message":"The sum is not a finite number"}'
        assert answer(line) == (not_finite if result == "null" else finite), line
