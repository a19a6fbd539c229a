"""Pool: lending, repeats, back-off, several addresses, idle connections, and closing."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gserver import Client, Lines, NoReply, NotSent, Pool
from tests.helpers.processes import GserverProcess, wait_for

Behave = Callable[[socket.socket, int], object]


class LineServer:
    """A server in threads: `behave(connection, number)` for each connection, which are numbered from 1."""

    def __init__(self, behave: Behave | None = None) -> None:
        self._behave = behave or self.echo
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.accepted: list[socket.socket] = []
        self.ended = 0  # connections whose client has closed them
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> LineServer:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def hang_up(self) -> None:
        """End all connections."""
        for each in self.accepted:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.accepted.append(connection)
            self._start(self._serve, connection, len(self.accepted))

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection:
            try:
                self._behave(connection, number)
            except OSError:
                pass

    def echo(self, connection: socket.socket, number: int) -> None:
        while data := connection.recv(65536):
            connection.sendall(data)
        self.ended += 1


@contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """An address that refuses connections, and stays free."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


def read_and_hang_up(connection: socket.socket, number: int) -> None:
    """Read one message of the first connection, and end it without a reply; echo on the others."""
    data = connection.recv(65536)
    while number > 1 and data:
        connection.sendall(data)
        data = connection.recv(65536)


def test_calls_one_after_the_other_use_one_connection() -> None:
    with LineServer() as server, Pool(server.address, Lines) as pool:
        assert [pool.call(b"%d" % number) for number in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert (len(server.accepted), pool.open, pool.idle) == (1, 1, 1)
        assert repr(pool) == "<Pool: 1 of 10 connections, 1 idle>"


def test_a_reply_before_bytes_that_are_no_message_is_returned_and_costs_no_place() -> None:
    def reply_and_flood(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(b"ok\n" + b"x" * 1000)
        connection.recv(65536)

    codec = functools.partial(Lines, max_bytes=100)
    with LineServer(reply_and_flood) as server, Pool(server.address, codec, size=1, timeout_s=30) as pool:
        assert [pool.call(b"a") for _ in range(3)] == [b"ok"] * 3
        assert pool.open == 0


def test_an_on_push_that_raises_costs_no_place() -> None:
    def reply_twice(connection: socket.socket, number: int) -> None:
        connection.recv(65536)
        connection.sendall(b"ok\nmore\n")
        connection.recv(65536)

    def on_push(message: bytes) -> bool:
        if message == b"more":
            raise RuntimeError("of the application")
        return False

    with LineServer(reply_twice) as server, Pool(server.address, Lines, size=1, timeout_s=30, on_push=on_push) as pool:
        for _ in range(3):
            with contextlib.suppress(RuntimeError):  # raised in the call, if both messages arrive together
                pool.call(b"a")
        assert pool.open == 0


def test_many_threads_share_few_connections() -> None:
    wrong: list[object] = []

    def call(number: int) -> None:
        for count in range(50):
            message = b"%d-%d" % (number, count)
            if (reply := pool.call(message)) != message:
                wrong.append((message, reply))

    with LineServer() as server, Pool(server.address, Lines, size=3) as pool:
        threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert len(server.accepted) <= 3


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced() -> None:
    """Also without repeat: nothing was sent on the old one."""
    with LineServer() as server, Pool(server.address, Lines) as pool:
        pool.call(b"first")
        server.hang_up()

        assert pool.call(b"second") == b"second"
        assert len(server.accepted) == 2


def test_a_call_without_a_reply_is_not_repeated_unless_allowed() -> None:
    with LineServer(read_and_hang_up) as server, Pool(server.address, Lines) as pool:
        with pytest.raises(NoReply, match="may have been executed"):
            pool.call(b"transfer")
        assert len(server.accepted) == 1
    with LineServer(read_and_hang_up) as server, Pool(server.address, Lines) as pool:
        assert pool.call(b"look", repeat=True) == b"look"
        assert len(server.accepted) == 2


def test_repeats_end_with_the_timeout() -> None:
    with (
        LineServer(lambda connection, number: connection.recv(100)) as server,
        Pool(server.address, Lines, timeout_s=0.5) as pool,
    ):
        began = time.monotonic()
        with pytest.raises((NoReply, NotSent)):
            pool.call(b"?", repeat=True)
        assert time.monotonic() - began < 10
        assert 2 <= len(server.accepted) < 60, "there are pauses between the repeats"


def test_a_server_that_is_not_there_is_not_sent_with_the_last_error_as_cause() -> None:
    with refusing() as address, Pool(address, Lines, timeout_s=0.3) as pool:
        with pytest.raises(NotSent, match=r"no connection within 0\.3 s: .*refused") as caught:
            pool.call(b"?")

        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        assert pool.open == 0


def test_a_server_that_comes_back_is_found() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = reserved.getsockname()
        replies: list[bytes] = []
        with Pool(address, Lines, timeout_s=60) as pool:
            caller = threading.Thread(target=lambda: replies.append(pool.call(b"hello")))
            caller.start()
            wait_for(lambda: pool._last_error is not None, "the first attempt was refused")
            reserved.listen()
            with reserved.accept()[0] as connection:
                connection.sendall(connection.recv(100))
                caller.join()
    assert replies == [b"hello"]


def test_an_address_that_fails_is_left_alone_and_the_others_are_used() -> None:
    with (
        refusing() as bad,
        LineServer() as one,
        LineServer() as other,
        Pool([bad, one.address, other.address], Lines, size=6) as pool,
    ):
        with pool.client() as a, pool.client() as b, pool.client() as c, pool.client() as d:
            assert [client.call(b"x") for client in (a, b, c, d)] == [b"x"] * 4
        assert min(len(one.accepted), len(other.accepted)) >= 1
        assert len(one.accepted) + len(other.accepted) == 4


def test_a_lent_connection_is_for_one_thread_and_comes_back() -> None:
    with LineServer() as server, Pool(server.address, Lines, size=1, timeout_s=0.2) as pool:
        with pool.client() as client:
            assert client.pipeline([b"a", b"b"]) == [b"a", b"b"]
            with pytest.raises(NotSent, match=r"none of the 1 connections became free within 0\.2 s"):
                pool.call(b"c")
        assert pool.call(b"d") == b"d"
        assert len(server.accepted) == 1


def test_after_an_exception_the_lent_connection_is_closed() -> None:
    with LineServer() as server, Pool(server.address, Lines) as pool:

        def fail() -> None:
            with pool.client() as client:
                client.send(b"its reply would be taken for that of the next call")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert pool.open == 0

        assert pool.call(b"next") == b"next"


def test_a_connection_with_a_message_that_nobody_asked_for_is_not_used_again() -> None:
    with LineServer() as server, Pool(server.address, Lines) as pool:
        pool.call(b"one")
        server.accepted[0].sendall(b"by the way\n")

        assert pool.call(b"two") == b"two"
        assert len(server.accepted) == 2


def test_pushes_are_no_reason_to_close_a_connection() -> None:
    pushes: list[bytes] = []

    def on_push(message: bytes) -> bool:
        if is_push := message.startswith(b"!"):
            pushes.append(message)
        return is_push

    with LineServer() as server, Pool(server.address, Lines, on_push=on_push) as pool:
        pool.call(b"one")
        server.accepted[0].sendall(b"!news\n")

        assert pool.call(b"two") == b"two"
        assert (pushes, len(server.accepted)) == ([b"!news"], 1)


def test_idle_connections_are_closed_after_max_idle_without_further_calls() -> None:
    with LineServer() as server, Pool(server.address, Lines, max_idle=0.1) as pool:
        with pool.client() as one, pool.client() as other:
            assert (one.call(b"1"), other.call(b"2")) == (b"1", b"2")
        assert pool.open == 2

        wait_for(lambda: pool.open == 0 and server.ended == 2, "both are closed")
        assert pool.call(b"3") == b"3"


def test_a_health_check_decides_whether_an_idle_connection_is_used() -> None:
    checked: list[bytes] = []

    def check(client: Client) -> None:
        checked.append(client.call(b"ping"))
        if len(checked) == 2:
            raise ValueError("not well")

    with LineServer() as server, Pool(server.address, Lines, health_check=check) as pool:
        assert (pool.call(b"new"), checked) == (b"new", [])
        assert (pool.call(b"again"), checked) == (b"again", [b"ping"])
        assert (pool.call(b"sick"), len(server.accepted)) == (b"sick", 2)
        assert pool.open == 1


def test_a_call_that_cannot_be_encoded_leaves_the_pool_usable() -> None:
    with LineServer() as server, Pool(server.address, Lines, size=1) as pool:
        with pytest.raises(TypeError):
            pool.call(3)
        assert pool.call(b"3") == b"3"


def test_a_reply_that_does_not_come_in_time_is_a_timeout() -> None:
    gone = threading.Event()
    with (
        LineServer(lambda connection, number: gone.wait(60)) as server,
        Pool(server.address, Lines, timeout_s=0.2) as pool,
    ):
        with pytest.raises(TimeoutError, match="no answer within"):
            pool.call(b"?", repeat=True)
        assert pool.open == 0
        gone.set()


def test_close_closes_idle_connections_and_lent_ones_when_they_come_back() -> None:
    with LineServer() as server:
        pool = Pool(server.address, Lines)
        with pool.client() as client:
            pool.call(b"another connection")
            pool.close()
            assert pool.open == 1
            assert client.call(b"still works") == b"still works"
        assert pool.open == 0
        with pytest.raises(NotSent, match="the pool is closed"):
            pool.call(b"?")
        pool.close()


def test_close_wakes_threads_that_wait_for_a_connection() -> None:
    errors: list[Exception] = []
    waits = threading.Event()

    def call() -> None:
        waits.set()
        try:
            pool.call(b"?")
        except NotSent as error:
            errors.append(error)

    with LineServer() as server:
        pool = Pool(server.address, Lines, size=1, timeout_s=None)
        with pool.client():
            caller = threading.Thread(target=call)
            caller.start()
            waits.wait()
            pool.close()
            caller.join(60)
    assert [str(error) for error in errors] == ["nothing was sent: the pool is closed"]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([], Lines), ValueError, "the list of addresses is empty"),
        ((("127.0.0.1", 1), Lines()), TypeError, "expected what makes one for each connection, such as JsonLines"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments: tuple[object, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Pool(*arguments)  # type: ignore[arg-type]


def test_a_size_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 0: expected 1 or more"):
        Pool(("127.0.0.1", 1), Lines, size=0)


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, sys
from gserver import Lines, Pool
pool = Pool(("127.0.0.1", int(sys.argv[1])), Lines, size=5, max_idle=0.2)
turns = []
ticker = gevent.spawn(lambda: [(turns.append(1), gevent.sleep(0.01)) for _ in range(10000)])
def call(number):
    return [pool.call(b"%d-%d" % (number, count)) for count in range(5)] == [b"%d-%d" % (number, c) for c in range(5)]
print(all(job.get() for job in [gevent.spawn(call, number) for number in range(40)]), len(turns) > 5, pool.open)
while pool.open:
    gevent.sleep(0.01)
pool.close()
"""


def test_greenlets_of_a_patched_process_share_a_pool(tmp_path: Path) -> None:
    """40 greenlets with 5 calls each, of 10 ms in the server, on 5 connections; another greenlet runs meanwhile."""
    (tmp_path / "slow.py").write_text(
        "import gevent\nfrom gserver import Lines, Service\n"
        "app = Service(lambda line, conn: gevent.sleep(0.01) or line, codec=Lines)\n"
    )
    with GserverProcess(tmp_path, "slow:app") as server:
        command = [sys.executable, "-c", PATCHED, str(server.address[1])]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ended.stdout, ended.stderr) == ("True True 5\n", "")
