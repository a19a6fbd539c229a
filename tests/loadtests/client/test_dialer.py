"""Opening connections: source addresses, names, and what is wrong with them."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from loadtests.client.dialer import PORTS_OF_A_SOURCE, Dialer, loopback_sources, parse_sources


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("", []),
        ("127.0.1.1", ["127.0.1.1"]),
        ("127.0.1.254-127.0.2.1", ["127.0.1.254", "127.0.1.255", "127.0.2.0", "127.0.2.1"]),
        ("127.0.0.9, 127.0.1.1-127.0.1.2", ["127.0.0.9", "127.0.1.1", "127.0.1.2"]),
        ("fd00::1-fd00::2", ["fd00::1", "fd00::2"]),
    ],
)
def test_source_addresses_are_ranges_and_lists(text: str, sources: list[str]) -> None:
    assert parse_sources(text) == sources


@pytest.mark.parametrize(
    "text", ["localhost", "127.0.0.2-127.0.0.1", "127.0.0.1-::1", "127.0.0.1-", "10.0.0.0-11.0.0.0", "1.2.3"]
)
def test_what_is_no_source_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"source address(es)? '{text}', expected"):
        parse_sources(text)


def test_more_sockets_than_a_source_has_ports_get_more_sources_on_the_loopback_only() -> None:
    assert loopback_sources("127.0.0.1", PORTS_OF_A_SOURCE) == []
    assert loopback_sources("127.0.0.1", PORTS_OF_A_SOURCE + 1) == ["127.0.1.1", "127.0.1.2"]
    assert len(loopback_sources("127.0.0.1", 100_000)) == 10
    for elsewhere in ("::1", "192.0.2.1", "localhost"):
        assert loopback_sources(elsewhere, 100_000) == []


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


def test_who_does_not_listen_refuses() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            Dialer(bound.getsockname()).dial(5)


def test_who_does_not_accept_is_waited_for_only_so_long() -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
        pytest.raises(TimeoutError, match=r"no connection within 0.05 s"),
    ):
        Dialer(full.getsockname()).dial(0.05)


def test_every_address_of_a_name_is_tried(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on ::1, and the next address is 127.0.0.1."""
    port = listener.getsockname()[1]
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with contextlib.closing(Dialer(("two-addresses.test", port)).dial(5)) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)
