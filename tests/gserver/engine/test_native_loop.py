"""The compiled message loop: it exists, does the same as the one in Python, and leaks nothing."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import gevent
import pytest

from gserver.codecs import Lines, Raw
from gserver.connection.connection import Connection
from gserver.connection.native_fields import IS_NATIVE
from gserver.connection.time_slice import Fairness
from gserver.counters import MESSAGES, Counters
from gserver.engine.message_loop import MessageLoop
from gserver.engine.native_loop import make_message_loop
from gserver.service import Service
from tests.helpers.serving import Serving

ROOT = Path(__file__).parents[3]
#: The tests of turns, of sending and of greenlets.
SHARED = [
    "gserver/engine/test_message_loop",
    "gserver/engine/test_schedulers",
    "gserver/connection/test_connection",
    "gserver/connection/test_time_slice",
    "gserver/test_fault_isolation",
]

needs_compiled = pytest.mark.skipif(not IS_NATIVE, reason="gserver was installed without a compiler")


def answer(message: Any, conn: Connection) -> Any:
    return message


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler")
@pytest.mark.skipif("GSERVER_PURE" in os.environ, reason="asked not to")
def test_it_is_compiled_if_there_is_a_compiler() -> None:
    assert IS_NATIVE
    assert type(make_message_loop(Service(answer), Counters(), Fairness())) is not MessageLoop


@needs_compiled
def test_python_alone_passes_the_same_tests() -> None:
    files = [f"tests/{name}.py" for name in SHARED]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**os.environ, "GSERVER_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]


def test_messages_of_every_size_come_back(serving: Serving, greenlets: str) -> None:
    """A small receive and a large one take different paths, and each selects the path of the next one."""
    server = serving.start(Service(answer), greenlets=greenlets)
    peer = serving.meet(server)

    for size in (1, 4096, 4097, 65_536, 65_537, 3, 200_000, 64, 4097, 1):
        data = os.urandom(size)
        peer.send(data)

        assert peer.read_exactly(size) == data


def test_data_that_another_codec_left_in_a_raw_one_is_delivered(serving: Serving, greenlets: str) -> None:
    """A protocol that begins with a line, and continues without framing."""

    def begin(message: bytes, conn: Connection) -> bytes:
        if isinstance(conn.codec, Lines):
            raw = Raw()
            raw.receive(bytes(conn.codec.partial))
            conn.codec = raw
            return b"raw from here"
        return message

    server = serving.start(Service(begin, Lines), greenlets=greenlets)
    peer = serving.meet(server)
    peer.send(b"begin\nleft")
    first = peer.read_line()
    peer.send(b"over")

    assert (first, peer.read_exactly(8)) == (b"raw from here", b"leftover")


def test_a_reply_that_is_not_bytes_ends_its_connection_only(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(lambda message, conn: "text"), greenlets=greenlets)
    other, peer = serving.meet(server), serving.meet(server)
    peer.send(b"hello")

    assert peer.read_to_end() == b""
    assert server.counters.open == 1
    other.finish()


def test_a_thousand_turns_leak_nothing(serving: Serving, greenlets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("gserver.turn"), "disabled", True)  # pytest keeps what is logged

    def fail_now_and_then(line: bytes, conn: Connection) -> bytes | None:
        if line == b"block":
            gevent.sleep(0)
        if line == b"fail":
            raise ValueError("as asked")
        return None if line == b"quiet" else line

    service = Service(fail_now_and_then, Lines, on_error=lambda fault, conn: b"failed")
    server = serving.start(service, greenlets=greenlets)
    peer = serving.meet(server)

    def exchange(times: int) -> int:
        for _ in range(times):
            peer.send(b"a\nfail\nquiet\nblock\n" + b"x" * 5000 + b"\n")
            assert peer.read_exactly(2 + 7 + 6 + 5001) == b"a\nfailed\nblock\n" + b"x" * 5000 + b"\n"
        gc.collect()
        return sys.getallocatedblocks()

    exchange(20)
    before = exchange(20)

    assert exchange(200) - before < 200


@needs_compiled
def test_wrong_arguments_are_refused() -> None:
    from gserver._native import CompiledLoop

    message_loop = make_message_loop(Service(answer), Counters(), Fairness())

    with pytest.raises(TypeError, match=r"object at .* is not a connection"):
        message_loop.serve(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"dispatch\(\) takes ready, a list of idle runners"):
        message_loop.dispatch(deque(), (), object, answer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"serve_parking\(\) takes ready, a list of idle runners"):
        message_loop.serve_parking(deque(), None, None, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not a connection"):
        message_loop.serve_parking(deque([object()]), [], None, print)  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="bind"):
        CompiledLoop().serve(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there is no cell 2 of 8 bytes in 16 bytes"):
        CompiledLoop().bind(answer, bytearray(16), MESSAGES, (0, 1, 1, 1), Raw, Raw, repr, Raw, ValueError, None)
    for timing, text in (
        ((3, 1, 1, 1), "there are no 2 cells of 8 bytes from 3 on in 32 bytes"),
        ((-1, 1, 1, 1), "there are no 2 cells of 8 bytes from -1 on"),
        ((0, 0, 1, 1), "0 buckets from 1 ns, for 1 of 1 messages: each must be at least 1"),
        ((0, 1, 0, 1), "1 buckets from 0 ns"),
        ((0, 1, 1, 0), "for 1 of 0 messages"),
    ):
        with pytest.raises(ValueError, match=text):
            CompiledLoop().bind(answer, bytearray(32), MESSAGES, timing, Raw, Raw, repr, Raw, ValueError, None)
