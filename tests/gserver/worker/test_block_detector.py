"""The hub watch: what keeps the hub from turning is seen from outside, with the connection and the line."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.monkey import get_original

from gserver import Service, stream
from gserver.codecs import Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.worker.block_detector import BlockDetector
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.paced("BLOCK_S")

BLOCK_S = 0.1
really_sleep = get_original("time", "sleep")


@contextlib.contextmanager
def watching() -> Iterator[BlockDetector]:
    watch = BlockDetector(BLOCK_S)
    try:
        yield watch
    finally:
        watch.stop()
        really_sleep(BLOCK_S)  # its thread ends


def on_message(line: bytes, conn: Connection) -> bytes:
    if line == b"block":
        really_sleep(BLOCK_S * 5)
    elif line == b"compute":
        until = time.monotonic() + BLOCK_S * 5
        while time.monotonic() < until:
            sum(range(1000))
    return line


@pytest.mark.parametrize("line", [b"block", b"compute"])
def test_a_handler_that_blocks_is_named(
    serving: Serving, caplog: pytest.LogCaptureFixture, greenlets: str, line: bytes
) -> None:
    with watching() as watch, caplog.at_level(logging.WARNING, "gserver.worker"):
        server = serving.start(Service(on_message, Lines), greenlets=greenlets)
        peer = serving.meet(server)
        host, port = peer.sock.getsockname()
        peer.ask(line)
        wait_until(lambda: bool(caplog.records))

        (record,) = caplog.records
        text = record.getMessage()
        fields = vars(record)
        assert fields["peer"] == f"{host}:{port}"
        assert (
            f"{host}:{port} ({fields['connection']}) in tests.gserver.worker.test_block_detector.on_message\n" in text
        )
        assert "really_sleep(BLOCK_S * 5)" in text or "sum(range(1000))" in text or "time.monotonic() < until" in text
        assert BLOCK_S * 2 <= watch.take_longest() <= BLOCK_S * 600
        assert watch.take_longest() == 0.0


def test_a_stream_handler_that_blocks_is_named(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    @stream
    def handle(conn: StreamConnection) -> None:
        really_sleep(BLOCK_S * 5)

    with watching(), caplog.at_level(logging.WARNING, "gserver.worker"):
        server = serving.start(handle)
        peer = serving.meet(server)
        peer.read_to_end()
        wait_until(lambda: bool(caplog.records))

    assert "in tests.gserver.worker.test_block_detector.handle\n" in caplog.text


def test_a_block_without_a_connection_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    with watching(), caplog.at_level(logging.WARNING, "gserver.worker"):
        gevent.spawn(on_message, b"block", None).join()
        wait_until(lambda: bool(caplog.records))

    assert "The event loop was blocked for" in caplog.text


def test_a_loop_that_runs_is_not_logged(serving: Serving, caplog: pytest.LogCaptureFixture, greenlets: str) -> None:
    """However busy it is, and whether it has something to do or nothing.

    A busy machine may itself keep the hub from turning, which is rightly logged; but not time and again.
    """
    server = serving.start(Service(on_message, Lines), greenlets=greenlets)
    peer = serving.meet(server)
    for _ in range(20):
        caplog.clear()
        with watching() as watch, caplog.at_level(logging.WARNING, "gserver.worker"):
            until = time.monotonic() + BLOCK_S * 4
            while time.monotonic() < until:
                peer.ask(b"hello")
            gevent.sleep(BLOCK_S * 4)
            longest_s = watch.take_longest()
        if not caplog.records:
            break

    assert longest_s < BLOCK_S
    assert caplog.records == []
