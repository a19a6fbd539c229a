"""A client that closes or resets at any byte of a message is one counted close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gserver import Service
from gserver.codecs import (
    Codec,
    ContentLength,
    Delimited,
    JsonLines,
    LengthPrefixed,
    Lines,
    Netstring,
    OctetCounted,
    VarintPrefixed,
)
from gserver.errors import CloseReason
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

MESSAGES: list[tuple[Callable[[], Codec], Any]] = [
    (Lines, b"hello"),
    (JsonLines, {"type": "SUM", "a": 1}),
    (Delimited, b"hello"),
    (LengthPrefixed, b"hello"),
    (VarintPrefixed, b"h" * 200),
    (Netstring, b"hello"),
    (OctetCounted, b"hello"),
    (ContentLength, b"hello"),
]


@pytest.mark.parametrize(("codec", "message"), MESSAGES, ids=[each[0].__name__ for each in MESSAGES])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_client_that_breaks_off_at_any_byte_is_one_counted_close(
    serving: Serving, greenlets: str, codec: Callable[[], Codec], message: Any, before: int, how: str
) -> None:
    server = serving.start(Service(lambda message, conn: message, codec), greenlets=greenlets)
    wire = codec().encode(message)
    cuts = range(1, len(wire))
    for cut in cuts:
        peer = serving.meet(server)
        peer.send(wire * before + wire[:cut])
        assert peer.read_exactly(len(wire) * before) == wire * before
        if how == "end":
            peer.finish()
            assert peer.read_to_end() == b""
        else:
            peer.reset()
    wait_until(lambda: server.counters.open == 0)

    reason = CloseReason.EOF_IN_MESSAGE if how == "end" else CloseReason.PEER_RESET
    assert server.counters.closed == {reason: len(cuts)}
    assert server.counters.messages == len(cuts) * before


def test_after_a_half_close_every_reply_is_sent_and_then_the_end(serving: Serving, greenlets: str) -> None:
    server = serving.start(Service(lambda message, conn: message, Lines), greenlets=greenlets)
    peer = serving.meet(server)
    lines = b"".join(b"%d\n" % number for number in range(50_000))
    sent = peer.sock._sock.send(lines)  # only as much as fits now: waiting here would be a deadlock
    peer.finish()

    whole = lines[:sent].rpartition(b"\n")[0] + b"\n"
    assert peer.read_to_end() == whole
