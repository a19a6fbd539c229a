from __future__ import annotations

import pytest

from gserver.errors import CloseReason
from gserver.ledger import OPEN, Ledger
from tests.helpers.services import make_echo_lines
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until


def make_ledger(accepted: int, *reasons: CloseReason) -> Ledger:
    ledger = Ledger()
    for _ in range(accepted):
        ledger.opened()
    for reason in reasons:
        ledger.ended(reason)
    return ledger


def test_every_connection_is_open_or_closed_for_a_reason() -> None:
    ledger = make_ledger(4, CloseReason.PEER_EOF, CloseReason.KILLED, CloseReason.PEER_EOF)

    assert (ledger.accepted, ledger.open) == (4, 1)
    assert ledger.closed == {CloseReason.PEER_EOF: 2, CloseReason.KILLED: 1}
    ledger.check()


def test_a_connection_that_was_never_accepted_is_noticed() -> None:
    with pytest.raises(AssertionError):
        make_ledger(1, CloseReason.PEER_EOF, CloseReason.PEER_EOF).check()


def test_a_connection_that_was_lost_is_noticed() -> None:
    ledger = make_ledger(2, CloseReason.PEER_EOF)
    ledger.cells[OPEN] -= 1
    with pytest.raises(AssertionError):
        ledger.check()


def test_the_ledger_reads_as_a_line() -> None:
    assert str(Ledger()) == "accepted 0, open 0, closed: none"
    assert str(make_ledger(4, CloseReason.KILLED, CloseReason.PEER_EOF, CloseReason.PEER_EOF)) == (
        "accepted 4, open 1, closed: peer_eof 2, killed 1"
    )


def test_the_law_holds_at_every_moment(serving: Serving, greenlets: str) -> None:
    """Connections come, talk and go in a mixture; the books balance after each step."""
    server = serving.start(make_echo_lines(), greenlets=greenlets)
    peers = []
    for number in range(30):
        peers.append(serving.meet(server))
        if number % 3 == 1:
            assert peers[-1].ask(b"hello") == b"hello"
            peers[-1].close()
        elif number % 3 == 2:
            peers[-1].send(b"half a line")
            peers[-1].reset()
        server.ledger.check()
    wait_until(lambda: server.ledger.open == 10)
    server.drain(0.5)

    assert server.ledger.accepted == 30
    assert server.ledger.closed[CloseReason.PEER_EOF] == 10
    assert server.ledger.closed[CloseReason.PEER_RESET] == 10
    assert server.ledger.closed[CloseReason.DRAINED] == 10
