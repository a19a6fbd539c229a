"""The spare descriptor, and a server without any other free descriptor."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from gserver.errors import CloseReason
from gserver.limits.connection_limits import Limits
from gserver.server.reserve_descriptor import ReserveDescriptor
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Nothing more can be opened; what is open stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] < highest:  # every number below it is taken
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest, fillers[-1]) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def accept_from(server: socket.socket) -> socket.socket | None:
    try:
        return server.accept()[0]
    except BlockingIOError:
        return None


def test_without_a_free_descriptor_one_client_can_be_accepted() -> None:
    spare = ReserveDescriptor()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        server.setblocking(False)
        client.connect(server.getsockname())
        with no_more_descriptors():
            with pytest.raises(OSError, match="Too many open files"):
                server.accept()
            accepted = spare.lend(lambda: accept_from(server))
            spare.take()
            assert not spare.is_there
            assert accepted is not None
            accepted.close()
            spare.take()
            assert spare.is_there
            assert client.recv(1) == b""
    spare.close()


def test_no_waiting_client_is_distinguished_from_no_descriptor() -> None:
    spare = ReserveDescriptor()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with no_more_descriptors():
            with pytest.raises(OSError, match="Too many open files"):
                server.accept()
            assert spare.lend(lambda: accept_from(server)) is None
            assert spare.is_there
    spare.close()
    spare.close()


@pytest.mark.parametrize("kind", ["service", "bare"])
def test_a_server_without_descriptors_refuses_clients_and_serves_its_connections(
    serving: Serving, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    def handle(sock: socket.socket, address: object) -> None:
        while data := sock.recv(100):
            sock.sendall(data)

    server = serving.start(make_echo_lines() if kind == "service" else handle)
    peer = serving.meet(server)
    strangers = [socket.socket() for _ in range(20)]
    with caplog.at_level(logging.ERROR), no_more_descriptors():
        for stranger in strangers:
            stranger.settimeout(60)
            stranger.setblocking(False)
            stranger.connect_ex(server.address)
        wait_until(lambda: server.counters.closed[CloseReason.FULL] == 20)
        assert peer.ask(b"still here") == b"still here"
    for stranger in strangers:
        stranger.close()

    assert [record.getMessage() for record in caplog.records] == ["cannot accept: Too many open files; 1 turned away"]
    assert serving.meet(server).ask(b"again") == b"again"


def test_a_server_that_sheds_makes_room_for_a_descriptor(serving: Serving) -> None:
    server = serving.start(make_echo_lines(), limits=Limits(full_action="shed"))
    idle = [serving.meet(server) for _ in range(3)]
    with socket.socket() as newcomer:
        newcomer.settimeout(60)
        with no_more_descriptors():
            newcomer.setblocking(False)
            newcomer.connect_ex(server.address)
            wait_until(lambda: server.counters.closed[CloseReason.SHED] == 1 and server.counters.accepted == 4)

    assert idle[0].read_to_end() == b""
    assert [peer.ask(b"x") for peer in idle[1:]] == [b"x", b"x"]


def test_a_server_without_descriptors_does_not_spin(serving: Serving) -> None:
    """Not even if the spare one does not help: the client waits in the accept queue, and the loop does not spin."""
    server = serving.start(make_echo_lines())
    assert server._spare is not None
    server._spare.close()
    with socket.socket() as stranger, no_more_descriptors():
        stranger.setblocking(False)
        stranger.connect_ex(server.address)
        before, began = time.process_time(), time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.5)
        spent = time.process_time() - before
        assert server.counters.accepted == 0

    assert spent < 0.25
    wait_until(lambda: server.counters.accepted == 1)
