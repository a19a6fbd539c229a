"""Sockets for redis-py that wait in the event loop of an unpatched process, and what of a URL is shown."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import gevent
import pytest

from gserver.bus.redis_connections import Connections, WaitingSocket, shown
from gserver.errors import ConfigError
from tests.helpers.redis_servers import needs_redis


@pytest.fixture
def pair() -> Iterator[tuple[WaitingSocket, WaitingSocket]]:
    one, other = (WaitingSocket(sock) for sock in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_a_receive_blocks_its_greenlet_alone(pair: tuple[WaitingSocket, WaitingSocket]) -> None:
    one, other = pair
    one.settimeout(20)
    waiting = gevent.spawn(one.recv, 100)
    buffer = bytearray(10)
    gevent.sleep(0)
    other.sendall(b"hello")
    assert waiting.get(timeout=20) == b"hello"
    other.sendall(b"again")

    assert one.recv_into(buffer) == 5
    assert bytes(buffer[:5]) == b"again"


def test_timeouts_are_those_of_sockets(pair: tuple[WaitingSocket, WaitingSocket]) -> None:
    one, other = pair
    one.settimeout(0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        one.recv(10)
    assert 0.04 < time.monotonic() - began < 10
    with pytest.raises(TimeoutError):
        one.sendall(bytes(10_000_000))
    one.settimeout(0)
    with pytest.raises(BlockingIOError):
        one.recv(10)

    assert (one.gettimeout(), other.gettimeout()) == (0, None)


def test_much_is_sent_whole(pair: tuple[WaitingSocket, WaitingSocket]) -> None:
    one, other = pair
    sending = gevent.spawn(one.sendall, bytes(2_000_000))
    size = 0
    while size < 2_000_000:
        size += len(other.recv(1_000_000))
    sending.get(timeout=20)

    assert size == 2_000_000


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://user:secret@host:6379/0?ssl_password=secret", "redis://host:6379/0"),
        ("rediss://:secr@et@[::1]:6379/1", "rediss://[::1]:6379/1"),
        ("unix://:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, text: str) -> None:
    assert shown(url) == text


@needs_redis
@pytest.mark.parametrize("option", ["protocol=3", "colour=red", "socket_timeout=soon"])
def test_wrong_options_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="setting bus is 'redis://host:1/0', which redis-py does not accept"):
        Connections(f"redis://:secret@host:1/0?{option}")
