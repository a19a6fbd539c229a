"""The control socket in a loop as the arbiter's: requests, replies, hostile clients, and its path."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.config.addresses import UnixBind
from gserver.control import control_socket, socket_path
from gserver.control.control_socket import MAX_CLIENTS, ControlSocket, Reply
from gserver.control.protocol import MAX_REQUEST_BYTES, Problem, Request
from gserver.errors import ConfigError
from gserver.process.unix_listener import BACKLOG

ROW = {"id": "4711-1", "peer": "127.0.0.1:1234", "filler": "x" * 1000}
#: So many rows are more than the kernel takes at once.
MANY_ROWS = 1000


class Commands:
    """Carries out requests: some at once, some when the test says so."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.waiting: list[Reply] = []
        self.lines_of_rows = 0
        self.failure: BaseException | None = None

    def run(self, request: Request, reply: Reply) -> None:
        self.seen.append(request)
        if self.failure is not None:
            raise self.failure
        if request.command == "connections":
            self.list(reply, request.arguments.get("limit", 1))
        elif request.command in ("reload", "stop"):
            self.waiting.append(reply)
        else:
            reply.result(done=request.command)

    def list(self, reply: Reply, left: int) -> None:
        """So many lines of rows, each when the last one was read."""
        if left == 0:
            reply.result(count=0)
            return
        self.lines_of_rows += 1
        reply.rows([ROW] * MANY_ROWS, lambda: self.list(reply, left - 1))


class Loop:
    """A control socket in a loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.selector = selectors.DefaultSelector()
        self.commands = Commands()
        self.control = ControlSocket(self.selector, self.commands)

    def open(self, suffix: str = "") -> None:
        self.control.open(UnixBind(str(self.path)), suffix)

    def turn(self, timeout_s: float = 0.0) -> int:
        """One turn of the loop; how many things there were to do."""
        ready = self.selector.select(timeout_s)
        for key, _ in ready:
            key.data()
        self.control.wake(time.monotonic())
        return len(ready)

    def settle(self) -> None:
        """Turn until nothing is to do. A loop that never comes to rest fails here."""
        for _ in range(100_000):
            if not self.turn():
                return
        raise AssertionError("the loop spins")

    @property
    def watched(self) -> int:
        """How many sockets are watched."""
        return len(self.selector.get_map())

    def close(self) -> None:
        self.control.close()
        self.selector.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    descriptors = set(os.listdir("/proc/self/fd"))
    made = Loop(tmp_path / "ctl")
    made.open()
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)


class Client:
    """A client that never blocks the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(loop.path))
        self.sock.setblocking(False)
        self.received = b""
        self.has_ended = False

    def send(self, data: bytes) -> None:
        """Send all, while the loop runs."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                self._loop.turn(0.01)
            except (BrokenPipeError, ConnectionResetError):
                return

    def request(self, command: str, **arguments: Any) -> None:
        self.send(json.dumps({"command": command, **arguments}).encode() + b"\n")

    def read(self) -> None:
        """Read what is there."""
        with contextlib.suppress(BlockingIOError):
            while not self.has_ended:
                try:
                    data = self.sock.recv(1 << 20)
                except ConnectionResetError:
                    data = b""
                self.received += data
                self.has_ended = not data

    def lines(self, count: int = 1) -> list[dict[str, Any]]:
        """The next lines, while the loop runs."""
        for _ in range(100_000):
            self.read()
            if self.received.count(b"\n") >= count or self.has_ended:
                break
            self._loop.turn(0.01)
        *lines, rest = self.received.split(b"\n")
        self.received = b"\n".join([*lines[count:], rest])
        return [json.loads(line) for line in lines[:count]]

    def line(self) -> dict[str, Any]:
        (found,) = self.lines()
        return found

    def is_closed(self) -> bool:
        """Whether the server has closed the connection, once the loop has come to rest."""
        self._loop.settle()
        self.read()
        return self.has_ended

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def connect(loop: Loop) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def made() -> Client:
        clients.append(Client(loop))
        loop.settle()
        return clients[-1]

    yield made
    for client in clients:
        client.close()


Connect = Callable[[], Client]


# Requests and replies


def test_each_request_gets_its_result(connect: Connect) -> None:
    client = connect()
    client.request("status", id=7)

    assert client.line() == {"schema": 1, "id": 7, "result": {"done": "status"}}


def test_rows_come_before_the_result(connect: Connect) -> None:
    client = connect()
    client.request("connections", limit=2, id="a")
    first, second, last = client.lines(3)

    assert first == second == {"schema": 1, "id": "a", "rows": [ROW] * MANY_ROWS}
    assert last == {"schema": 1, "id": "a", "result": {"count": 0}}


@pytest.mark.parametrize(
    ("sent", "code", "request_id"),
    [
        (b"", "malformed", None),
        (b"\xff\xfe", "malformed", None),
        (b"GET / HTTP/1.1\r", "malformed", None),
        (b"[" * 60_000, "malformed", None),
        (b'{"command": "status"', "malformed", None),
        (b'{"command": "status", "id": [1]}', "malformed", None),
        (b'{"command": "fly", "id": 3}', "unknown_command", 3),
        (b'{"command": ["status"], "id": 3}', "unknown_command", 3),
        (b'{"command": "close", "id": 3}', "invalid_argument", 3),
        (b'{"command": "status", "id": 3, "speed": 1}', "invalid_argument", 3),
    ],
)
def test_wrong_requests_are_answered_and_end_nothing(connect: Connect, sent: bytes, code: str, request_id: Any) -> None:
    client = connect()
    client.send(sent + b"\n")
    refused = client.line()
    client.request("status")

    assert (refused["id"], refused["error"]["code"]) == (request_id, code)
    assert "\n" not in refused["error"]["message"]
    assert client.line()["result"] == {"done": "status"}


def test_every_depth_of_nesting_is_survived(loop: Loop, connect: Connect) -> None:
    """json.loads() accepts some depths that json.dumps() does not, a few frames further down."""
    client = connect()
    for depth in range(900, 1000, 3):
        client.send(b'{"command": "status", "id": ' + b"[" * depth + b"]" * depth + b"}\n")
        assert client.line()["error"]["code"] == "malformed"


def test_a_command_that_raises_is_one_error(loop: Loop, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    client = connect()
    loop.commands.failure = ZeroDivisionError("oh")
    client.request("status")
    failed = client.line()["error"]
    loop.commands.failure = Problem("not_found", "nothing there")
    client.request("status")

    assert failed == {"code": "failed", "message": "status failed: ZeroDivisionError, see the error log"}
    assert client.line()["error"] == {"code": "not_found", "message": "nothing there"}
    assert [record.message for record in caplog.records] == ["control command status failed"]


def test_requests_are_carried_out_one_after_another(loop: Loop, connect: Connect) -> None:
    client = connect()
    client.send(b'{"command": "reload", "id": 1}\n{"command": "status", "id": 2}\n')
    loop.settle()
    assert [request.command for request in loop.commands.seen] == ["reload"]
    (reply,) = loop.commands.waiting
    reply.result(done=True)
    reply.result(done=True)  # only the first counts
    reply.error(Problem("failed", "too late"))

    assert [line["id"] for line in client.lines(2)] == [1, 2]


def test_a_reply_after_its_client_has_gone_is_dropped(loop: Loop, connect: Connect) -> None:
    client = connect()
    client.request("reload")
    loop.settle()
    (reply,) = loop.commands.waiting
    was_wanted = reply.is_wanted
    client.close()
    loop.settle()
    reply.rows([ROW], pytest.fail)
    reply.result()
    reply.rows([ROW], pytest.fail)
    loop.settle()

    assert (was_wanted, reply.is_wanted) == (True, False)
    assert loop.watched == 1


# Hostile clients


def test_silent_clients_take_no_turns(loop: Loop, connect: Connect) -> None:
    for _ in range(5):
        connect()

    assert loop.turn() == 0
    assert loop.watched == 6


def test_a_request_in_single_bytes(loop: Loop, connect: Connect) -> None:
    client = connect()
    for byte in b'{"command": "status"}\n':
        client.send(bytes([byte]))
        loop.settle()

    assert client.line()["result"] == {"done": "status"}


def test_thousands_of_requests_at_once_are_all_answered_in_order(loop: Loop, connect: Connect) -> None:
    client, other = connect(), connect()
    count = 5000
    requests = b"".join(b'{"command": "status", "id": %d}\n' % number for number in range(count))
    client.send(requests)
    other.request("status", id="other")
    assert other.line()["id"] == "other"  # it does not wait for the others' requests

    assert [line["id"] for line in client.lines(count)] == list(range(count))
    loop.settle()


def test_a_client_that_sends_and_never_reads_costs_a_bounded_amount(loop: Loop, connect: Connect) -> None:
    """Its requests stay in the kernel, once the replies do not go out."""
    client = connect()
    sent = 0
    while True:
        try:
            sent += client.sock.send(b'{"command": "connections"}\n' * 100)
        except BlockingIOError:
            if not loop.turn():
                break
    assert loop.commands.lines_of_rows <= 2
    assert loop.turn() == 0
    client.close()
    loop.settle()

    assert loop.watched == 1


def test_a_listing_goes_on_as_fast_as_its_client_reads(loop: Loop, connect: Connect) -> None:
    deaf, client = connect(), connect()
    deaf.request("connections", limit=1000)
    loop.settle()
    before = loop.commands.lines_of_rows
    assert before <= 2
    assert loop.turn() == 0
    client.request("status")
    assert client.line()["result"] == {"done": "status"}
    assert loop.commands.lines_of_rows == before

    assert len(deaf.lines(10)) == 10


def test_clients_that_go_in_the_middle_of_a_listing(loop: Loop, connect: Connect) -> None:
    for _ in range(50):
        client = connect()
        client.request("connections", limit=3)
        loop.turn()
        client.close()
        loop.settle()

    assert loop.watched == 1


@pytest.mark.parametrize("size", [MAX_REQUEST_BYTES + 1, 10 * MAX_REQUEST_BYTES])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_request_that_is_too_long_is_refused_and_the_client_closed(
    loop: Loop, connect: Connect, size: int, end: bytes
) -> None:
    client = connect()
    client.send(b"x" * size + end + b'{"command": "status"}\n')
    loop.settle()
    (refused,) = client.lines()

    assert refused["error"] == {"code": "malformed", "message": "a request is longer than 65536 bytes"}
    assert client.is_closed()
    assert loop.commands.seen == []
    assert loop.watched == 1


def test_a_request_of_the_longest_size_is_carried_out(connect: Connect) -> None:
    client = connect()
    request = b'{"command": "status"}'
    client.send(b" " * (MAX_REQUEST_BYTES - len(request)) + request + b"\n")

    assert client.line()["result"] == {"done": "status"}


def test_garbage_is_answered_line_by_line(loop: Loop, connect: Connect) -> None:
    client = connect()
    client.send(os.urandom(50_000).replace(b"\n", b" ") + b"\n\n\r\n{}\n")

    codes = [line["error"]["code"] for line in client.lines(4)]
    assert codes == ["malformed", "malformed", "malformed", "unknown_command"]


def test_a_half_closed_client_gets_its_replies_and_then_the_end(loop: Loop, connect: Connect) -> None:
    client = connect()
    client.send(b'{"command": "reload", "id": 1}\n{"command": "status", "id": 2}')  # the last without a line feed
    client.sock.shutdown(socket.SHUT_WR)
    loop.settle()
    assert not client.is_closed()
    assert loop.turn() == 0
    (reply,) = loop.commands.waiting
    reply.result()

    assert [line["id"] for line in client.lines(2)] == [1, 2]
    assert client.is_closed()
    assert loop.watched == 1


def test_a_client_that_resets(loop: Loop, connect: Connect) -> None:
    client = connect()
    client.request("status")
    client.close()  # with an unread reply
    loop.settle()

    assert loop.watched == 1


def test_at_one_more_the_client_that_was_silent_for_longest_is_closed(loop: Loop, connect: Connect) -> None:
    clients = [connect() for _ in range(MAX_CLIENTS)]
    clients[0].request("status")
    assert clients[0].line()
    connect()

    assert [number for number, client in enumerate(clients) if client.is_closed()] == [1]
    assert loop.watched == 1 + MAX_CLIENTS


def test_a_client_that_waits_for_its_reply_is_closed_only_if_all_do(loop: Loop, connect: Connect) -> None:
    clients = [connect() for _ in range(MAX_CLIENTS)]
    for client in clients[:-1]:
        client.request("reload")
        loop.settle()
    connect()
    assert [number for number, client in enumerate(clients) if client.is_closed()] == [MAX_CLIENTS - 1]
    loop.commands.waiting[0].result()
    loop.settle()
    assert clients[0].line()

    newcomers = [connect() for _ in range(2)]
    newcomers[0].request("reload")
    loop.settle()
    assert clients[0].is_closed()
    assert not any(client.is_closed() for client in clients[1:-1])


def test_a_client_that_does_not_read_its_replies_gives_way(loop: Loop, connect: Connect) -> None:
    clients = [connect() for _ in range(MAX_CLIENTS)]
    for client in clients:
        client.request("reload")
    loop.settle()
    clients[7].request("connections", limit=MANY_ROWS)
    loop.commands.waiting[7].result()
    loop.settle()
    connect()

    assert not any(client.is_closed() for client in clients[:7] + clients[8:])


def test_thousands_of_clients_come_and_go(loop: Loop) -> None:
    kept: list[socket.socket] = []
    for number in range(3000):
        client = Client(loop)
        if number % 3:
            client.request("status")
        if number % 7 == 0:
            loop.turn()
        if number % 2:
            client.close()
        else:
            kept.append(client.sock)
        if len(kept) > 100:
            kept.pop(0).close()
        if number % BACKLOG == 0:
            loop.settle()
    for sock in kept:
        sock.close()
    loop.settle()

    assert loop.watched == 1


def test_without_a_descriptor_it_does_not_spin_and_accepts_again_later(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "EXHAUSTED_PAUSE_S", 0.05)
    listener = loop.control._listener
    assert listener is not None
    actual = listener.socket

    class Exhausted:
        def accept(self) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

        def fileno(self) -> int:
            assert actual is not None
            return actual.fileno()

    listener.socket = Exhausted()  # type: ignore[assignment]
    client = Client(loop)
    assert loop.turn() == 1
    assert loop.turn() == 0
    assert loop.control.wakes_at is not None
    assert loop.control.wakes_at <= time.monotonic() + 0.05
    listener.socket = actual
    client.request("status")
    assert client.line()["result"] == {"done": "status"}
    client.close()
    loop.settle()


def test_a_client_is_closed_by_an_event_before_its_own(loop: Loop, connect: Connect) -> None:
    """The selector has returned both: the new client, and the input of the one that is closed for it."""
    clients = [connect() for _ in range(MAX_CLIENTS)]
    newcomer = Client(loop)
    for client in clients:
        client.request("status")
    loop.settle()
    newcomer.request("status")

    assert newcomer.line()["result"] == {"done": "status"}
    assert sum(client.is_closed() for client in clients) == 1
    newcomer.close()


# Its end


def test_at_the_end_clients_get_their_replies_and_end_of_file(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "ctl")
    loop.open()
    client = Client(loop)
    client.request("stop")
    loop.settle()
    (reply,) = loop.commands.waiting
    reply.result(done="stop")
    loop.close()
    client.read()

    assert json.loads(client.received)["result"] == {"done": "stop"}
    assert client.has_ended
    assert list(tmp_path.iterdir()) == []
    client.close()


def test_a_child_closes_the_sockets_and_changes_nothing_else(loop: Loop, connect: Connect, tmp_path: Path) -> None:
    client = connect()
    pid = os.fork()
    if pid == 0:
        before = len(os.listdir("/proc/self/fd"))
        loop.selector.close()
        loop.control.leave_to_child()
        os._exit(before - len(os.listdir("/proc/self/fd")))
    _, status = os.waitpid(pid, 0)
    client.request("status")

    assert os.waitstatus_to_exitcode(status) == 3  # the selector, the listener and a client
    assert client.line()["result"] == {"done": "status"}
    assert (tmp_path / "ctl").exists()


# Its path


def test_only_its_user_may_connect(loop: Loop, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "ctl").stat().st_mode) == 0o600


def test_a_path_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "missing" / "ctl")
    with pytest.raises(
        ConfigError, match=r"^control socket '.*/missing/ctl' cannot be made: No such file or directory$"
    ):
        loop.open()
    loop.close()


def test_it_is_renamed_when_a_new_arbiter_takes_over(tmp_path: Path) -> None:
    old, new = Loop(tmp_path / "ctl"), Loop(tmp_path / "ctl")
    old.open()
    new.open(".2")
    assert (old.control.path, new.control.path) == (str(tmp_path / "ctl"), f"{tmp_path}/ctl.2")
    old.close()
    new.control.rename(UnixBind(str(tmp_path / "ctl")))
    client = Client(new)
    client.request("status")

    assert client.line()["result"] == {"done": "status"}
    client.close()
    new.close()
    assert list(tmp_path.iterdir()) == []


def test_it_follows_a_link_in_its_path(tmp_path: Path) -> None:
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
    (tmp_path / "current").symlink_to("1")
    loop = Loop(tmp_path / "current" / "ctl")
    loop.open()
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("2")
    loop.control.follow()

    assert loop.control.path == str(tmp_path / "2" / "ctl")
    loop.close()


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({}, "No control socket: XDG_RUNTIME_DIR is not set"),
        ({"XDG_RUNTIME_DIR": "/nonexistent"}, "No control socket: [Errno 2] No such file or directory"),
    ],
)
def test_without_a_default_path_there_is_none_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environ: dict[str, str],
    line: str,
) -> None:
    caplog.set_level(logging.INFO, "gserver.control")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    loop = Loop(tmp_path)
    loop.control.open_default(environ, 4711)
    loop.control.rename(UnixBind("other"))
    loop.control.follow()
    loop.control.leave_to_child()
    loop.close()

    (record,) = caplog.records
    assert (record.levelname, record.message[: len(line)]) == ("INFO", line)
    assert loop.control.path is None


def test_the_default_path_is_in_the_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_path, "default_folder", lambda environ, user: str(tmp_path / "gserver"))
    loop = Loop(tmp_path / "gserver" / "4711.ctl")
    loop.control.open_default({}, 4711)

    assert loop.control.path == str(loop.path)
    client = Client(loop)
    client.close()
    loop.settle()
    loop.close()
    assert list((tmp_path / "gserver").iterdir()) == []
