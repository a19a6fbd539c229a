from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gserver.codecs import Raw
from gserver.testing.codec_checks import check_codec, check_garbage
from tests.helpers.codec_kit import decode, feed


def test_raw_passes_the_battery() -> None:
    check_codec(Raw, [(b"x", [b"x"]), (b"hello\n\x00\xff", [b"hello\n\x00\xff"])], frames=False)


def test_bytes_that_arrive_together_are_one_message() -> None:
    assert decode(Raw, b"a\nb\nc") == [b"a\nb\nc"]


def test_pieces_that_were_not_taken_are_delivered_together() -> None:
    codec = Raw()
    codec.receive(b"one ")
    codec.receive(b"two")

    assert list(codec.messages()) == [b"one two"]
    assert list(codec.messages()) == []


def test_no_bytes_are_no_message() -> None:
    assert feed(Raw(), [b""]) == []


@given(st.lists(st.binary()))
def test_every_byte_is_delivered_once_and_in_order(pieces: list[bytes]) -> None:
    assert b"".join(feed(Raw(), pieces)) == b"".join(pieces)


@given(st.binary())
def test_any_bytes_are_messages(data: bytes) -> None:
    check_garbage(Raw, data, frames=False)
