"""The readiness probe: proper replies pass, all others fail with their own message."""

from __future__ import annotations

import functools
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from gserver.codecs import JsonLines, LengthPrefixed, Lines
from gserver.connection.connection import Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.errors import CloseReason, ConfigError
from gserver.handlers import echo, json
from gserver.json_service import JsonService
from gserver.service import Service, StreamService, stream
from gserver.worker.readiness_probe import PEER, probe
from tests.helpers.processes import GserverProcess
from tests.helpers.services import Diary, Gate, Keeper, make_echo_lines, make_lines
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

PATIENCE_S = 5.0
#: For what is never answered.
SHORT_S = 0.05


@pytest.mark.parametrize(
    "service", [echo(), json(), JsonService(), Service(lambda line, conn: line, Lines, probe=b"?")]
)
def test_a_service_that_answers_passes(service: Service) -> None:
    probe(service, PATIENCE_S)


def test_a_service_without_a_probe_is_not_probed() -> None:
    asked: list[bytes] = []
    probe(Service(lambda line, conn: asked.append(line), Lines, on_open=lambda conn: asked.append(b"open")), 0.1)

    assert asked == []


def test_it_comes_over_a_connection_of_its_own() -> None:
    seen: list[Any] = []
    service = Service(
        lambda line, conn: line,
        Lines,
        probe=b"?",
        probe_on_open=True,
        on_open=lambda conn: seen.append(conn.peer),
        on_close=lambda conn, reason: seen.append(reason.value),
    )
    probe(service, PATIENCE_S)

    assert seen == [PEER, "drained"]


def test_on_open_and_on_close_are_for_clients_alone() -> None:
    """What they demand of a client, a certificate perhaps, must not keep the worker's own message out."""
    called: list[Any] = []

    def refuse(conn: Connection) -> None:
        called.append(conn)
        conn.close(CloseReason.DENIED)

    service = make_echo_lines(
        on_open=refuse, on_drain=called.append, on_close=lambda conn, reason: called.append(reason), probe=b"?"
    )
    probe(service, PATIENCE_S)

    assert called == []
    assert service.on_open is refuse


def test_with_probe_on_open_a_drain_that_fails_does_not_pass() -> None:
    def fail(conn: Connection) -> None:
        raise RuntimeError("no")

    service = make_echo_lines(on_drain=fail, probe=b"?", probe_on_open=True)
    with pytest.raises(ConfigError, match=r"answered with an error: on_drain raised RuntimeError: no"):
        probe(service, PATIENCE_S)


@pytest.mark.parametrize("asked", [False, True])
def test_a_handler_can_recognise_it(asked: bool) -> None:
    seen: list[bool] = []
    service = make_lines(
        lambda line, conn: seen.append(conn.is_probe) or line,
        probe=b"?",
        probe_on_open=asked,
        on_open=lambda conn: seen.append(conn.is_probe),
    )
    probe(service, PATIENCE_S)

    assert seen == [True] * (2 if asked else 1)


def test_a_client_is_not_taken_for_it(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one whose own path has its name."""
    monkeypatch.chdir(tmp_path)
    keeper = Keeper()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("server")
    listener.listen()
    serving.start(keeper.service(), listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.bind("probe")
        client.connect("server")
        wait_until(lambda: bool(keeper.conns))

    assert keeper.conn.peer == PEER
    assert not keeper.conn.is_probe


def test_an_answer_may_take_its_time() -> None:
    def answer(line: bytes, conn: Any) -> bytes:
        gevent.sleep(0.05)
        return line

    probe(Service(answer, Lines, probe=b"?"), PATIENCE_S)


def test_a_stream_is_probed_too() -> None:
    @stream(codec=Lines, probe=b"?")
    def handle(conn: Any) -> None:
        for line in conn:
            conn.send(line)

    probe(handle, PATIENCE_S)


class DeafToAnswers(Lines):
    """Fails on the second line that any of its kind reads: the first is the server's."""

    read = 0

    def receive(self, data: bytes) -> None:
        DeafToAnswers.read += 1
        if DeafToAnswers.read == 2:
            raise KeyError("lost")
        super().receive(data)


def raises(message: Any, conn: Any) -> Any:
    raise RuntimeError("it cannot")


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (Service(lambda line, conn: None, Lines, probe=b"?"), "^the probe was not answered within 0.2 s$"),
        (
            Service(lambda line, conn: conn.close(), Lines, probe=b"?"),
            r"^the probe was not answered: the connection was closed \(finished\)$",
        ),
        (
            Service(lambda line, conn: conn.close(CloseReason.DENIED), Lines, probe=b"?"),
            r"^the probe was not answered: the connection was closed \(denied\)$",
        ),
        (
            Service(raises, Lines, probe=b"?"),
            r"^the probe was not answered: the handler raised RuntimeError: it cannot \(.*test_\w+\.py:\d+\)$",
        ),
        (
            Service(raises, Lines, probe=b"?", on_error=lambda *_: b"sorry"),
            r"^the probe was answered with an error: the handler raised RuntimeError: it cannot \(.*.py:\d+\)$",
        ),
        (
            Service(raises, Lines, probe=b"?", on_open=lambda conn: None),
            r"it cannot \(.*\) \(on_open is called for the probe only with probe_on_open=True\)$",
        ),
        (
            Service(lambda line, conn: "text", Lines, probe=b"?"),
            "the handler raised TypeError: a message of Lines must be bytes, not str: use .encode",
        ),
        (
            stream(codec=Lines, probe=b"?")(lambda conn: None),
            r"^the probe was not answered: the connection was closed \(finished\)$",
        ),
        (
            stream(codec=Lines, probe=b"?")(lambda conn: raises(b"", conn)),
            r"^the probe was not answered: the handler raised RuntimeError: it cannot \(",
        ),
        (
            Service(lambda line, conn: line, DeafToAnswers, probe=b"?"),
            r"^the codec DeafToAnswers cannot read the reply to the probe: KeyError: 'lost' \(.*py:\d+\)$",
        ),
    ],
    ids=[
        "silence",
        "close",
        "close for a reason",
        "exception",
        "exception that is answered",
        "exception without on_open",
        "reply of the wrong type",
        "stream that leaves",
        "stream that raises",
        "codec that cannot read it",
    ],
)
def test_everything_else_does_not_pass(service: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        probe(service, 0.2)


def test_a_probe_that_the_codec_cannot_carry_is_an_error_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"^the probe .* cannot be encoded by the codec JsonLines: TypeError: "):
        probe(Service(raises, JsonLines, probe=object()), 0.2)
    with pytest.raises(ConfigError, match=r"^the probe \{'a': 1\} cannot be encoded by the codec Lines: .*not dict"):
        probe(Service(raises, Lines, probe={"a": 1}), 0.2)


# Answers that count


def assert_ready(service: Service | StreamService, timeout_s: float | None = PATIENCE_S) -> None:
    probe(service, timeout_s)


def refusal(service: Service | StreamService, timeout_s: float = PATIENCE_S) -> str:
    """The reason for which the probe fails."""
    with pytest.raises(ConfigError) as caught:
        probe(service, timeout_s)
    return str(caught.value)


def test_without_a_limit_it_waits_for_the_answer() -> None:
    assert_ready(make_echo_lines(probe=b"?"), timeout_s=None)


def test_an_answer_may_be_sent_by_another_greenlet() -> None:
    def answer(line: bytes, conn: Connection) -> None:
        gevent.spawn(conn.send, line)

    assert_ready(make_lines(answer, probe=b"?"))


def test_an_answer_may_come_in_pieces() -> None:
    def answer(line: bytes, conn: Connection) -> None:
        for piece in (b"o", b"k", b"\n"):
            conn.write(piece)
            gevent.sleep(0.001)

    assert_ready(make_lines(answer, probe=b"?"))


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_probe_may_be_of_any_size(size: int) -> None:
    """What the kernel does not take at once is sent bit by bit."""
    codec = functools.partial(LengthPrefixed, max_bytes=1_000_000)

    assert_ready(Service(lambda message, conn: message, codec, probe=bytes(size)))


def test_a_json_service_may_have_a_probe_of_its_own() -> None:
    service = JsonService(probe={"type": "health"})
    asked: list[Any] = []

    @service.on("health")
    def health(message: Any, conn: Connection) -> dict[str, bool]:
        asked.append(message)
        return {"fine": True}

    assert_ready(service)
    assert asked == [{"type": "health"}]


def test_a_json_service_may_do_without() -> None:
    opened: list[Connection] = []

    assert_ready(JsonService(on_open=opened.append, probe=None))
    assert opened == []


def test_the_callbacks_run_in_order_and_once() -> None:
    diary = Diary(open_s=0.01)
    service = diary.service()
    service.probe, service.probe_on_open = b"hello", True

    assert_ready(service)
    assert [entry.partition(" ")[0] for entry in diary.of(PEER)] == ["open", "hello", "close"]
    assert len(diary.entries) == 3


def test_it_can_be_probed_again() -> None:
    service = make_echo_lines(probe=b"?")
    for _ in range(3):
        probe(service, PATIENCE_S)


def test_a_stream_may_leave_after_its_answer() -> None:
    @stream(codec=Lines, probe=b"?")
    def handle(conn: StreamConnection) -> None:
        conn.send(next(conn))

    assert_ready(handle)


def test_a_stream_without_a_probe_is_not_probed() -> None:
    called: list[StreamConnection] = []

    assert_ready(StreamService(called.append))
    assert called == []


# Answers that do not


def test_a_handler_that_lets_a_timeout_escape_does_not_pass() -> None:
    def answer(line: bytes, conn: Connection) -> None:
        raise gevent.Timeout(1)

    assert "the handler raised Timeout" in refusal(make_lines(answer, probe=b"?"))


@pytest.mark.parametrize("after_s", [0.0, 0.01])
def test_a_handler_that_fails_after_its_answer_does_not_pass(after_s: float) -> None:
    def answer(line: bytes, conn: Connection) -> None:
        conn.send(b"fine")
        gevent.sleep(after_s)
        raises(line, conn)

    assert "error" in refusal(make_lines(answer, probe=b"?"))


def test_a_stream_that_fails_after_its_answer_does_not_pass() -> None:
    @stream(codec=Lines, probe=b"?")
    def handle(conn: StreamConnection) -> None:
        conn.send(next(conn))
        raises(b"", conn)

    assert "error" in refusal(handle)


def test_a_stream_that_only_reads_does_not_pass() -> None:
    @stream(codec=Lines, probe=b"?")
    def handle(conn: StreamConnection) -> None:
        while conn.recv():
            pass

    assert "within" in refusal(handle, SHORT_S)


def test_a_probe_that_the_codec_calls_malformed_does_not_pass() -> None:
    class Broken(JsonLines):
        def encode(self, message: Any) -> bytes:
            return b"{]\n" if message == "probe" else super().encode(message)

    service = Service(lambda message, conn: message, Broken, on_error=lambda fault, conn: {"no": 1}, probe="probe")

    assert "error" in refusal(service)


def test_a_probe_that_is_too_long_for_its_codec_does_not_pass() -> None:
    assert "the codec refuses it: line of 11 bytes, the limit is 10" in refusal(
        Service(lambda line, conn: line, lambda: Lines(max_bytes=10), probe=b"?" * 11)
    )


@pytest.mark.parametrize(
    ("open_", "says"),
    [
        (lambda conn: conn.close(), "the connection was closed (finished)"),
        (lambda conn: raises(b"", conn), "on_open raised RuntimeError: it cannot"),
    ],
    ids=["close", "raise"],
)
def test_a_service_that_does_not_let_it_in_does_not_pass(open_: Callable[[Connection], None], says: str) -> None:
    assert says in refusal(make_echo_lines(on_open=open_, probe=b"?", probe_on_open=True))


def test_a_service_that_breaks_the_connection_does_not_pass() -> None:
    """The kernel may report it as a reset instead of an end."""
    break_ = functools.partial(Connection.abort, reason=CloseReason.KILLED)

    assert "not answered" in refusal(make_echo_lines(on_open=break_, probe=b"?", probe_on_open=True))


def test_it_may_wait_as_long_as_it_likes() -> None:
    probe(make_echo_lines(probe=b"?"), None)


def test_what_has_passed_of_its_time_is_not_given_again() -> None:
    gate = Gate()
    with pytest.raises(ConfigError, match=r"^the probe was not answered within 600 s$"):
        probe(gate.service(probe=b"wait"), 600, 599.95)


def test_half_an_answer_is_none() -> None:
    assert "within" in refusal(make_lines(lambda line, conn: conn.write(b"half"), probe=b"?"), SHORT_S)


def test_an_answer_that_breaks_the_framing_is_none() -> None:
    service = Service(lambda line, conn: conn.write(b"y" * 100), lambda: Lines(max_bytes=10), probe=b"?")

    refusal(service, SHORT_S)


def test_a_handler_that_never_returns_is_ended() -> None:
    gate = Gate()

    assert "within" in refusal(gate.service(probe=b"wait"), SHORT_S)
    assert gate.waiting == 0


def test_a_greeting_does_not_hide_that_the_handler_fails() -> None:
    service = make_lines(raises, on_open=lambda conn: conn.send(b"welcome"), probe=b"?", probe_on_open=True)

    assert "error" in refusal(service)


def test_a_greeting_does_not_hide_that_the_handler_never_answers() -> None:
    gate = Gate()

    refusal(gate.service(on_open=lambda conn: conn.send(b"welcome"), probe=b"wait", probe_on_open=True), SHORT_S)


DIES_IN_ITS_PROBE = """
import os, signal
from gserver import Lines, Service

def answer(line, conn):
    if conn.is_probe and not os.path.exists("probed"):
        open("probed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return line

app = Service(answer, Lines, probe=b"probe")
"""


def test_the_probe_of_a_worker_that_is_killed_meanwhile_is_no_connection_in_the_totals(tmp_path: Path) -> None:
    """In a worker of a later generation: a server ends if its first worker cannot start."""
    (tmp_path / "app.py").write_text(DIES_IN_ITS_PROBE)
    (tmp_path / "probed").touch()
    with GserverProcess(tmp_path, "app:app") as server:
        (tmp_path / "probed").unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log("Worker exited with signal SIGKILL")

    assert "Totals: messages 0, errors 0, accepted 0, open 0, closed: none" in server.log
