"""examples/chat.py: rooms and nicknames between workers, and a member that does not read."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gserver import Client, CloseReason, ConnectionClosed, Lines
from gserver.testing import Conversation, serve
from tests.helpers.examples import EXAMPLES, load_example
from tests.helpers.processes import GserverProcess

PATIENCE_S = 60


@pytest.fixture
def chat() -> Any:
    return load_example("chat")


def join(client: Client, name: bytes, room: bytes = b"lobby") -> None:
    assert client.call(b"/nick " + name) == b"* guest is now " + name
    assert client.call(b"/join " + room) == b"* " + name + b" is here"


def test_messages_reach_the_room_and_no_other(chat: Any) -> None:
    with serve(chat.app) as server:
        ada, bob, eve = server.connect(), server.connect(), server.connect()
        join(ada, b"ada")
        join(bob, b"bob")
        join(eve, b"eve", b"other")
        assert ada.recv() == b"* bob is here"
        assert bob.call("¡hola\x1b[2J!".encode()) == "bob: ¡hola[2J!".encode()
        assert ada.recv() == "bob: ¡hola[2J!".encode()
        assert eve.call(b"alone") == b"eve: alone"
        assert ada.call(b"/nick ann") == b"* ada is now ann"
        assert bob.recv() == b"* ada is now ann"
        assert bob.call(b"/join other") == b"* bob is here"
        assert ada.recv() == b"* bob has left"
        assert eve.recv() == b"* bob is here"
        assert eve.call(b"/quit") == b"* bye"
        assert bob.recv() == b"* eve has left"
        ada.close()
        assert bob.call(b"still here") == b"bob: still here"


def test_what_is_no_command_is_explained(chat: Any) -> None:
    with Conversation(chat.app) as conv:
        wrong = [b"hello", b"/nick", b"/nick " + b"a" * 21, b"/join a b", b"/dance"]
        assert all(reply.startswith(b"* /nick NAME") for reply in conv.message(*wrong))
        assert len(conv.received) == len(wrong)
        assert conv.message(b"", b"  ") == []


def test_a_member_that_does_not_read_is_disconnected_and_the_others_go_on(chat: Any) -> None:
    with serve(chat.app, send_buffer_limit=10_000) as server:
        fast, slow = server.connect(), server.connect()
        join(slow, b"slow")
        join(fast, b"fast")
        text = b"x" * 900
        for _ in range(20_000):
            if CloseReason.BUFFER_LIMIT in server.closed:
                break
            while fast.call(text) != b"fast: " + text:
                pass  # that the slow one has left
        assert server.closed[CloseReason.BUFFER_LIMIT] == 1
        assert fast.call(b"still here") in (b"fast: still here", b"* slow has left")


# With two workers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GserverProcess]:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    with GserverProcess(tmp_path, "chat:app", workers=2) as running:
        yield running


def has_members(pid: int, port: int) -> bool:
    connections = psutil.Process(pid).net_connections("tcp")
    return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in connections)


def test_a_room_has_members_in_both_workers(server: GserverProcess) -> None:
    with contextlib.ExitStack() as clients:
        members: list[Client] = []
        while len(members) < 4 or not all(has_members(pid, server.address[1]) for pid in server.serving_pids()):
            members.append(clients.enter_context(Client(server.address, Lines(), PATIENCE_S)))
            assert members[-1].call(b"hello").startswith(b"* /nick")  # it is accepted
        for number, member in enumerate(members):
            join(member, b"m%d" % number)
            for other in members[:number]:
                assert other.recv() == b"* m%d is here" % number
        for number, member in enumerate(members):
            member.send(b"hello from %d" % number)
            for each in members:
                assert each.recv() == b"m%d: hello from %d" % (number, number)
        members[0].close()
        for each in members[1:]:
            assert each.recv() == b"* m0 has left"
        with pytest.raises(ConnectionClosed):
            members[0].call(b"hello")
