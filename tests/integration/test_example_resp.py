"""examples/resp.py with the clients of Redis: redis-cli, redis-benchmark, redis-py; and its codec in the battery."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.codecs import Raw
from gserver.errors import FrameTooLarge, InvalidHeader
from gserver.testing import Conversation, Limit, check_codec, feed, serve
from tests.helpers.examples import EXAMPLES, load_example
from tests.helpers.processes import GserverProcess

PATIENCE_S = 60


@pytest.fixture
def resp() -> Any:
    return load_example("resp")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GserverProcess]:
    (tmp_path / "resp.py").write_text((EXAMPLES / "resp.py").read_text())
    with GserverProcess(tmp_path, "resp:app") as running:
        yield running


def exchange(address: tuple[str, int], data: bytes, size: int) -> bytes:
    """Send bytes, and return the next `size` bytes of the reply, or all before the end."""
    with socket.create_connection(address, PATIENCE_S) as sock:
        sock.sendall(data)
        replies = b""
        while len(replies) < size and (more := sock.recv(size - len(replies))):
            replies += more
        return replies


def answered(resp: Any, data: bytes, replies: bytes) -> None:
    with serve(resp.app) as server:
        assert exchange(server.address, data, len(replies)) == replies


# The codec


def test_the_codec_keeps_the_contract(resp: Any) -> None:
    pairs = [
        (b"*1\r\n$4\r\nPING\r\n", [[b"PING"]]),
        (
            b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n*1\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
            [[b"SET", b"", b"\r\n*1"], [b"GET", b""]],
        ),
    ]
    limit = Limit(
        lambda size: resp.Resp(max_bytes=size),
        wire=lambda size: b"*1\r\n$%d\r\n%b\r\n" % (size, b"a" * size),
        unfinished=lambda size: b"*1\r\n$%d\r\n" % size,
    )
    check_codec(resp.Resp, pairs, limit=limit)


def test_commands_in_words_are_decoded(resp: Any) -> None:
    assert feed(resp.Resp, b"SET a  1\r\n\r\nGET a\n*0\r\n") == [[b"SET", b"a", b"1"], [b"GET", b"a"]]


@pytest.mark.parametrize(
    "wire",
    [b"*-1\r\n", b"*x\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$-1\r\n", b"*1\r\n*1\r\n", b"*1\r\n$ 1\r\n"],
)
def test_what_is_no_command_is_an_error(resp: Any, wire: bytes) -> None:
    with pytest.raises(InvalidHeader):
        feed(resp.Resp, wire)


@pytest.mark.parametrize(
    "wire",
    [
        b"*99999999999\r\n",
        b"*1025\r\n",
        b"*1\r\n$1048577\r\n",
        b"*2\r\n$1048576\r\n" + bytes(1048576) + b"\r\n$1\r\n",
        b"a" * 1048578,
    ],
)
def test_a_command_above_the_maximum_is_an_error(resp: Any, wire: bytes) -> None:
    with pytest.raises(FrameTooLarge):
        feed(resp.Resp, wire)


# The service


def test_commands_are_pipelined(resp: Any) -> None:
    sent = b"PING\r\nPING hi\r\nSET n 41\r\nincr n\r\nGET n\r\nGET none\r\nDEL n none\r\nGET n\r\n"
    answered(resp, sent, b"+PONG\r\n$2\r\nhi\r\n+OK\r\n:42\r\n$2\r\n42\r\n$-1\r\n:1\r\n$-1\r\n")


def test_errors_are_answered_and_the_connection_goes_on(resp: Any) -> None:
    sent = b"NOPE\r\nGET\r\nSET a 1 NX\r\nSET a 1 EX 0\r\nSET a x\r\nINCR a\r\n"
    sent += b"SET a 9223372036854775807\r\nINCR a\r\nPING\r\n"
    replies = (
        b"-ERR unknown command b'NOPE'\r\n-ERR wrong arguments for 'get' command\r\n"
        b"-ERR wrong arguments for 'set' command\r\n"
        b"-ERR wrong arguments for 'set' command\r\n+OK\r\n-ERR value is not an integer or out of range\r\n"
        b"+OK\r\n-ERR value is not an integer or out of range\r\n+PONG\r\n"
    )
    answered(resp, sent, replies)


def test_a_broken_command_is_answered_and_ends_the_connection(resp: Any) -> None:
    text = b"-ERR Protocol error: expected $ and a length, got b'+OK'\r\n"
    with serve(resp.app) as server:
        assert exchange(server.address, b"PING\r\n*1\r\n+OK\r\nPING\r\n", 1000) == b"+PONG\r\n" + text


def test_a_key_expires_unless_it_is_set_again(resp: Any) -> None:
    with Conversation(resp.app, codec=Raw()) as conv:
        conv.send(b"SET a 1 EX 10\r\nSET b 1 EX 10\r\nSET c 1 ex 20\r\nSET b 2\r\nINCR a\r\n")
        conv.advance(9)
        assert conv.send(b"GET a\r\n") == [b"$1\r\n2\r\n"]
        conv.advance(2)
        assert conv.send(b"GET a\r\nGET b\r\nGET c\r\n") == [b"$-1\r\n$1\r\n2\r\n$1\r\n1\r\n"]
        conv.advance(20)
        assert (resp.values, resp.timers) == ({b"b": b"2"}, {})


# Real clients


def run(server: GserverProcess, program: str, *arguments: str, typed: str | None = None) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program} (redis-tools)")
    host, port = server.address
    ended = subprocess.run(
        [program, "-h", host, "-p", str(port), *arguments],
        input=typed, capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    return ended.stdout


def test_redis_cli(server: GserverProcess) -> None:
    typed = "PING\nSET greeting 'hello world'\nGET greeting\nINCR n\nINCR n\nDEL greeting n other\nGET greeting\nGET\n"

    lines = run(server, "redis-cli", typed=typed).splitlines()

    assert lines[:7] == ["PONG", "OK", "hello world", "1", "2", "2", ""]
    assert lines[7] == "ERR wrong arguments for 'get' command"


def test_redis_cli_pipes_ten_thousand_commands(server: GserverProcess) -> None:
    typed = "".join(f"*3\r\n$3\r\nSET\r\n$5\r\n{n:05}\r\n$1\r\nx\r\n" for n in range(10_000))

    assert "errors: 0, replies: 10000" in run(server, "redis-cli", "--pipe", typed=typed)
    assert run(server, "redis-cli", "GET", "09999") == "x\n"


def test_redis_benchmark(server: GserverProcess) -> None:
    # -P: 16 commands are sent together.
    output = run(server, "redis-benchmark", "-t", "ping,set,get,incr", "-n", "2000", "-c", "20", "-P", "16", "-q")

    figures = re.findall(r"(PING_INLINE|PING_MBULK|SET|GET|INCR): ([\d.]+) requests per second", output)
    assert [name for name, _ in figures] == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"]


def test_redis_py(server: GserverProcess) -> None:
    redis = pytest.importorskip("redis")
    host, port = server.address
    with redis.Redis(host=host, port=port, protocol=2, socket_timeout=PATIENCE_S) as client:
        assert client.ping()
        assert client.set("a", "ü", ex=100)
        assert client.get("a") == "ü".encode()
        assert (client.incr("n"), client.incr("n"), client.get("none")) == (1, 2, None)
        with client.pipeline(transaction=False) as pipe:
            pipe.set("b", 1).incr("b").delete("a", "b")
            assert pipe.execute() == [True, 2, 2]
        client.set("a", "x")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("a")
