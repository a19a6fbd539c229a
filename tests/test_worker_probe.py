"""The probe: one real message, answered in order or not."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from gserver.errors import ConfigError
from gserver.framing import JsonLines, Lines
from gserver.handlers import echo, json
from gserver.ledger import CELLS, Ledger
from gserver.service import JsonService, Service, stream
from gserver.worker.probe import PEER, probe

PATIENCE_S = 5.0


def is_clean(ledger: Ledger) -> bool:
    return [ledger.cells[cell] for cell in range(CELLS)] == [0] * CELLS


@pytest.mark.parametrize(
    "service", [echo(), json(), JsonService(), Service(lambda line, conn: line, Lines, probe=b"?")]
)
def test_a_service_that_answers_passes_and_leaves_no_trace(service: Service) -> None:
    ledger = Ledger()
    probe(service, ledger, PATIENCE_S)

    assert is_clean(ledger)


def test_a_service_without_a_probe_is_not_asked() -> None:
    asked: list[bytes] = []
    probe(
        Service(lambda line, conn: asked.append(line), Lines, on_open=lambda conn: asked.append(b"open")), Ledger(), 0.1
    )

    assert asked == []


def test_it_comes_over_a_connection_of_its_own() -> None:
    seen: list[Any] = []
    service = Service(
        lambda line, conn: line,
        Lines,
        probe=b"?",
        on_open=lambda conn: seen.append(conn.peer),
        on_close=lambda conn, reason: seen.append(reason.value),
    )
    probe(service, Ledger(), PATIENCE_S)

    assert seen == [PEER, "drained"]


def test_an_answer_may_take_its_time() -> None:
    def answer(line: bytes, conn: Any) -> bytes:
        gevent.sleep(0.05)
        return line

    probe(Service(answer, Lines, probe=b"?"), Ledger(), PATIENCE_S)


def test_a_stream_is_probed_too() -> None:
    @stream(codec=Lines, probe=b"?")
    def handle(conn: Any) -> None:
        for line in conn:
            conn.send(line)

    ledger = Ledger()
    probe(handle, ledger, PATIENCE_S)

    assert is_clean(ledger)


def raises(message: Any, conn: Any) -> Any:
    raise RuntimeError("it cannot")


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (Service(lambda line, conn: None, Lines, probe=b"?"), "^the probe was not answered within 0.2 s$"),
        (
            Service(lambda line, conn: conn.close(), Lines, probe=b"?"),
            "^the probe was not answered: the connection was",
        ),
        (Service(raises, Lines, probe=b"?"), "^the probe was not answered: the connection was closed$"),
        (
            Service(raises, Lines, probe=b"?", on_error=lambda *_: b"sorry"),
            "^the probe was answered with an error: see",
        ),
        (stream(codec=Lines, probe=b"?")(lambda conn: None), "^the probe was not answered: the connection was closed$"),
    ],
    ids=["silence", "close", "exception", "exception that is answered", "stream that leaves"],
)
def test_everything_else_does_not_pass(service: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        probe(service, Ledger(), 0.2)


def test_a_probe_that_the_codec_cannot_carry_is_an_error_of_its_own() -> None:
    with pytest.raises(TypeError):
        probe(Service(raises, JsonLines, probe=object()), Ledger(), 0.2)
