from __future__ import annotations

import pickle

import pytest

from gserver import errors
from gserver.codecs import CODECS, Codec, JsonLines, LengthPrefixed, Lines, Malformed, codec_named
from gserver.errors import (
    CloseReason,
    ConfigError,
    ConnectionClosed,
    FrameTooLarge,
    GServerError,
    HandlerTimeout,
    IncompleteMessage,
    InvalidHeader,
    MessageTimeout,
    ProtocolError,
)
from tests.helpers.codec_kit import feed


def raised_by_codecs() -> dict[str, GServerError]:
    """Each text of a codec for the peer, as the peer receives it."""
    causes: dict[str, tuple[Codec, bytes]] = {
        "a long line": (Lines(5), b"abcdef\n"),
        "a long line without an end": (Lines(5), b"abcdefg"),
        "a long line of JSON": (JsonLines(5), b'"abcde"\n'),
        "a long message": (LengthPrefixed(max_bytes=5), b"\x00\x00\x00\x06"),
        "a short header": (LengthPrefixed(2, includes_header=True), b"\x00\x01"),
        "half a line": (Lines(5), b"abc"),
        "half a message": (LengthPrefixed(), b"\x00\x00\x00\x06abc"),
    }
    found: dict[str, GServerError] = {}
    for cause, (codec, wire) in causes.items():
        try:
            feed(codec, [wire])
            codec.eof()
        except GServerError as error:
            found[cause] = error
    return found


def test_the_texts_that_peers_read_stay_as_they_are() -> None:
    assert {cause: (type(error), str(error)) for cause, error in raised_by_codecs().items()} == {
        "a long line": (FrameTooLarge, "line of 6 bytes, the limit is 5"),
        "a long line without an end": (FrameTooLarge, "line of at least 7 bytes, the limit is 5"),
        "a long line of JSON": (FrameTooLarge, "line of 7 bytes, the limit is 5"),
        "a long message": (FrameTooLarge, "message of 6 bytes, the limit is 5"),
        "a short header": (InvalidHeader, "length 1 is less than the 2 bytes of its own header"),
        "half a line": (IncompleteMessage, "the peer stopped 3 bytes into a line"),
        "half a message": (IncompleteMessage, "the peer stopped 7 bytes into a message"),
    }


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ProtocolError, CloseReason.PROTOCOL_ERROR),
        (FrameTooLarge, CloseReason.PROTOCOL_ERROR),
        (InvalidHeader, CloseReason.PROTOCOL_ERROR),
        (IncompleteMessage, CloseReason.EOF_IN_MESSAGE),
        (MessageTimeout, CloseReason.MESSAGE_TIMEOUT),
    ],
)
def test_a_protocol_error_has_its_close_reason(kind: type[ProtocolError], reason: CloseReason) -> None:
    assert kind("text").close_reason is reason
    assert str(kind("text")) == "text"


def test_all_that_is_raised_on_purpose_has_one_root() -> None:
    kinds = [value for name, value in vars(errors).items() if name in errors.__all__ and name != "CloseReason"]

    assert [kind for kind in kinds if not issubclass(kind, GServerError)] == [HandlerTimeout]
    assert not issubclass(HandlerTimeout, Exception)
    assert {kind.__name__ for kind in kinds} | {"CloseReason"} == set(errors.__all__)


def test_connection_closed_carries_the_reason() -> None:
    error = ConnectionClosed("closed", CloseReason.PEER_RESET)

    assert (str(error), error.reason) == ("closed", CloseReason.PEER_RESET)
    assert ConnectionClosed("closed").reason is None


def test_connection_closed_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConnectionClosed("closed", CloseReason.KILLED)))

    assert (str(error), error.reason) == ("closed", CloseReason.KILLED)


def test_close_reasons_are_the_words_of_logs_and_metrics() -> None:
    """Renaming a reason breaks dashboards of users. A new reason is added here."""
    assert [reason.value for reason in CloseReason] == [
        "peer_eof",
        "peer_reset",
        "eof_in_message",
        "protocol_error",
        "handler_error",
        "handshake_failed",
        "handshake_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "read_idle_timeout",
        "message_timeout",
        "handler_timeout",
        "write_timeout",
        "aged",
        "deadline",
        "denied",
        "full",
        "address_limit",
        "accept_rate",
        "shed",
        "rate_limit",
        "buffer_limit",
        "finished",
        "drained",
        "administrative",
        "killed",
        "health_check",
        "worker_died",
    ]


def test_an_unknown_codec_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        codec_named("xml")

    assert str(caught.value) == f"unknown codec 'xml': expected one of {', '.join(CODECS)}"


def test_the_repr_of_a_malformed_has_its_texts() -> None:
    assert repr(Malformed("Invalid JSON", "byte 0")) == "Malformed('Invalid JSON', 'byte 0')"
