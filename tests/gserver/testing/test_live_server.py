from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest

from gserver import CloseReason, ConfigError, ConnectionClosed, JsonService, Lines, MsgPack, Service, stream
from gserver.testing import LiveServer, serve
from tests.helpers.services import make_echo_lines, make_lines
from tests.helpers.waiting import wait_until


def test_a_service_answers_on_a_real_socket() -> None:
    with serve(make_echo_lines()) as server:
        with server.connect() as client:
            assert client.call(b"hello") == b"hello"
        host, port = server.address
        with socket.create_connection((host, port), 10) as sock:
            sock.sendall(b"a\nb\n")
            assert sock.makefile("rb").readline() == b"a\n"


def test_the_listener_of_a_connection_is_the_address_or_chosen() -> None:
    names = make_lines(lambda line, conn: conn.listener.encode(), probe=b"?", probe_on_open=True)
    with serve(names) as server, server.connect() as client:
        assert client.call(b"?") == b"127.0.0.1:%d" % server.address[1]
    with serve(names, listener="admin") as server, server.connect() as client:
        assert client.call(b"?") == b"admin"


def test_the_probe_has_the_listener_of_the_server() -> None:
    seen: list[str] = []

    def handle(line: bytes, conn: Any) -> bytes:
        seen.append(conn.listener)
        return line

    with serve(make_lines(handle, probe=b"?"), listener="admin"):
        assert seen == ["admin"]


def test_listeners_have_no_effect_in_a_test() -> None:
    with pytest.raises(ConfigError, match=r"^setting listeners has no effect in a test"):
        serve("echo", listeners={"127.0.0.1:1": {"app": "echo"}})


def test_the_process_is_not_patched_and_no_thread_is_left() -> None:
    before = threading.active_count()
    with serve("echo") as server, server.connect() as client:
        assert client.call(b"x") == b"x"

    assert threading.active_count() == before


def test_handlers_and_test_share_objects() -> None:
    seen: list[bytes] = []

    def handle(line: bytes, conn: Any) -> bytes:
        seen.append(line)
        return b"ok"

    with serve(make_lines(handle)) as server:
        server.connect().call(b"one")
        assert seen == [b"one"]


def test_ready_is_called_before_and_stop_after() -> None:
    calls: list[str] = []
    service = make_echo_lines(
        ready=lambda: calls.append("ready"),
        stop=lambda: calls.append("stop"),
        on_open=lambda conn: calls.append("open"),
        on_close=lambda conn, reason: calls.append(reason.value),
    )
    with serve(service) as server:
        assert calls == ["ready"]
        server.connect().call(b"x")

    assert calls == ["ready", "open", "peer_eof", "stop"]


def test_a_failure_of_ready_is_raised_where_the_server_is_made() -> None:
    def ready() -> None:
        raise OSError("no database")

    with (
        pytest.raises(ConfigError, match=r"ready\(\) raised OSError: no database") as raised,
        serve(make_echo_lines(ready=ready)),
    ):
        pass

    assert isinstance(raised.value.__cause__, OSError)


def test_the_probe_is_sent() -> None:
    with (
        pytest.raises(ConfigError, match="the probe was not answered"),
        serve(make_lines(lambda line, conn: None, probe=b"?"), ready_timeout=0.2),
    ):
        pass


def fail(line: bytes, conn: Any) -> None:
    raise ValueError(f"cannot handle {line!r}")


def run(service: Any, talk: Callable[[LiveServer], object], **settings: Any) -> None:
    with serve(service, **settings) as server:
        talk(server)


def call_and_lose(server: LiveServer) -> None:
    with pytest.raises(ConnectionClosed):
        server.connect().call(b"x")


def test_an_exception_of_a_handler_fails_the_test_with_the_users_line() -> None:
    with pytest.raises(AssertionError) as raised:
        run(make_lines(fail), call_and_lose)

    text = str(raised.value)
    assert text.startswith("handler failed for 127.0.0.1:")
    assert f"ValueError: cannot handle b'x' ({__file__}:" in text
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_failure_of_the_block_keeps_its_own_exception_and_has_the_handlers_as_a_note() -> None:
    with pytest.raises(ConnectionClosed) as raised, serve(make_lines(fail)) as server:
        server.connect().call(b"x")

    (note,) = raised.value.__notes__
    assert note.startswith("beside it, in the server: handler failed for ")


def test_an_expected_error_is_taken_by_the_test() -> None:
    with serve(make_lines(fail, on_error=lambda fault, conn: b"no")) as server:
        assert server.connect().call(b"x") == b"no"
        assert str(server.errors.pop()) == "cannot handle b'x'"


def test_errors_can_be_left_unreported() -> None:
    with serve(make_lines(fail, on_error=lambda fault, conn: b"no"), raise_errors=False) as server:
        assert server.connect().call(b"x") == b"no"


@pytest.mark.parametrize("hook", ["on_open", "on_close", "on_drain", "stop"])
def test_exceptions_of_all_hooks_are_reported(hook: str) -> None:
    def raising(*arguments: Any) -> None:
        raise LookupError(hook)

    service = make_echo_lines()
    setattr(service, hook, raising)

    def talk(server: LiveServer) -> None:
        client = server.connect()
        if hook != "on_open":
            client.call(b"x")
        if hook == "on_drain":
            server.drain()
        if hook in ("on_open", "on_drain"):
            with pytest.raises(ConnectionClosed):
                client.recv()

    with pytest.raises(AssertionError, match=f"LookupError: {hook} "):
        run(service, talk)


@pytest.mark.parametrize("line", [b"task", b"greenlet"])
def test_exceptions_of_tasks_and_of_other_greenlets_are_reported(line: bytes) -> None:
    def handle(line: bytes, conn: Any) -> bytes:
        if line == b"task":
            conn.spawn(fail, line, conn)
        else:
            gevent.spawn(fail, line, conn)
        return b"ok"

    def talk(server: LiveServer) -> None:
        server.connect().call(line)
        wait_until(lambda: server.errors)

    with pytest.raises(AssertionError, match="ValueError: cannot handle"):
        run(make_lines(handle), talk)


def test_errors_of_another_server_are_not_reported() -> None:
    with serve(make_echo_lines()) as good, serve(make_lines(fail), raise_errors=False) as bad:
        with pytest.raises(ConnectionClosed):
            bad.connect().call(b"x")
        assert good.connect().call(b"x") == b"x"
        assert good.errors == []


def test_a_log_that_is_off_is_refused() -> None:
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(RuntimeError, match="raise_errors=False"), serve(make_echo_lines()):
            pass
        with serve(make_echo_lines(), raise_errors=False) as server:
            assert server.connect().call(b"x") == b"x"
    finally:
        logging.disable(logging.NOTSET)


def test_settings_have_the_names_of_gserver() -> None:
    with serve(make_echo_lines(), idle_timeout=0.1, max_message_size=10) as server:
        with pytest.raises(ConnectionClosed):
            server.connect().call(b"x" * 11)
        client = server.connect()
        assert client.call(b"x") == b"x"
        with pytest.raises(ConnectionClosed):
            client.recv()

    assert server.closed == {CloseReason.PROTOCOL_ERROR: 1, CloseReason.IDLE_TIMEOUT: 1}


def test_settings_do_not_change_the_application() -> None:
    service = make_echo_lines()
    with serve(service, max_message_size=10):
        pass

    assert service.codec is Lines


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"idle_timout": 1}, "unknown setting 'idle_timout', did you mean 'idle_timeout'?"),
        ({"idle_timeout": "soon"}, "setting idle_timeout is 'soon'"),
        ({"workers": 2}, "setting workers has no effect in a test"),
        ({"pidfile": "x"}, "setting pidfile has no effect in a test"),
        ({"keyfile": "x"}, "setting keyfile has no effect without certfile"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        serve(make_echo_lines(), **setting)


def test_hooks_of_connections_are_called() -> None:
    calls: list[Any] = []
    with serve(
        make_echo_lines(),
        connection_open=lambda worker, conn: calls.append(worker.age),
        connection_close=lambda worker, conn, reason: calls.append(reason),
    ) as server:
        server.connect().call(b"x")

    assert calls == [1, CloseReason.PEER_EOF]


def test_tls(certificate: tuple[Path, Path]) -> None:
    certfile, keyfile = map(str, certificate)
    service = make_lines(lambda line, conn: conn.tls.version.encode())
    with serve(service, certfile=certfile, keyfile=keyfile) as server:
        assert server.connect().call(b"x") == b"TLSv1.3"


def test_a_drain_sends_the_last_words_and_ends_the_connections() -> None:
    service = make_echo_lines(on_drain=lambda conn: conn.send(b"bye"))
    with serve(service) as server:
        client = server.connect()
        client.call(b"x")
        server.drain()
        assert list(client) == [b"bye"]
        with pytest.raises(OSError, match="refused"):
            server.connect()
    assert server.closed == {CloseReason.DRAINED: 1}


def test_a_handler_that_does_not_end_is_killed_and_reported() -> None:
    def handle(line: bytes, conn: Any) -> None:
        conn.send(b"began")
        gevent.sleep(600)

    began = time.monotonic()
    with (
        pytest.raises(AssertionError, match=r"still busy after graceful_timeout \(0.1 s\), and were killed: 1"),
        serve(make_lines(handle), graceful_timeout=0.1) as server,
    ):
        assert server.connect().call(b"x") == b"began"
    assert time.monotonic() - began < 20


def test_a_blocked_event_loop_is_reported_with_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gserver.testing.live_server.LATE_S", 0.2)
    over = threading.Event()

    def handle(line: bytes, conn: Any) -> None:
        over.wait(30)  # not gevent's

    servers: list[LiveServer] = []

    def talk(server: LiveServer) -> None:
        servers.append(server)
        server.connect().send(b"x")
        wait_until(lambda: server.open == 1)

    with pytest.raises(AssertionError, match=r"its event loop is blocked[^$]*over\.wait"):
        run(make_lines(handle), talk, graceful_timeout=0.1)
    over.set()
    servers[0]._thread.join()


class Add(msgspec.Struct, tag=True):
    a: int
    b: int


def test_typed_messages() -> None:
    api = JsonService(MsgPack)

    @api.on
    def add(message: Add, conn: Any) -> Any:
        return message.a + message.b

    with serve(api) as server:
        assert server.connect().call(Add(1, 2)) == 3


def test_concurrent_handlers_that_wait_for_an_event_of_gevent_set_by_another_message() -> None:
    opened = gevent.event.Event()

    def handle(line: bytes, conn: Any) -> bytes:
        if line == b"wait":
            opened.wait()
        else:
            opened.set()
        return line

    with serve(Service(handle, Lines, concurrency=4)) as server:
        client = server.connect()
        client.send(b"wait")
        client.send(b"open")
        assert {client.recv(), client.recv()} == {b"wait", b"open"}


def test_a_stream_and_a_plain_function() -> None:
    @stream(codec=Lines)
    def shout(conn: Any) -> None:
        for line in conn:
            conn.send(line.upper())

    def handle(sock: Any, address: Any) -> None:
        sock.sendall(sock.recv(100)[::-1])

    with serve(shout) as server:
        assert server.connect().call(b"x") == b"X"
    with serve(handle) as server:
        assert server.connect().call(b"abc") == b"cba"
