"""Opening connections: source addresses, names, and errors."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from loadtests.client.dialer import Dialer


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener


def test_connections_come_from_the_sources_in_turns(listener: socket.socket) -> None:
    dialer = Dialer(listener.getsockname(), ["127.0.1.1", "127.0.1.2", "127.0.1.3"])
    with contextlib.ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(contextlib.closing(dialer.dial(5)))
        peers = Counter(stack.enter_context(listener.accept()[0]).getpeername()[0] for _ in range(9))

    assert peers == {"127.0.1.1": 3, "127.0.1.2": 3, "127.0.1.3": 3}


def test_a_connection_does_not_block_and_does_not_wait_to_send(listener: socket.socket) -> None:
    with contextlib.closing(Dialer(listener.getsockname()).dial(5)) as sock:
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_source_that_is_not_of_this_host_is_an_error_of_the_connect(listener: socket.socket) -> None:
    with pytest.raises(OSError, match="assign"):
        Dialer(listener.getsockname(), ["192.0.2.1"]).dial(5)


def test_a_port_without_a_listener_refuses() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            Dialer(bound.getsockname()).dial(5)


def test_a_full_accept_queue_is_a_timeout() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
        pytest.raises(TimeoutError, match=r"no connection within 0.05 s"),
    ):
        Dialer(full.getsockname()).dial(0.05)


def test_every_address_of_a_name_is_tried(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no listener on ::1; the next address is 127.0.0.1."""
    port = listener.getsockname()[1]
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with contextlib.closing(Dialer(("two-addresses.test", port)).dial(5)) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)
