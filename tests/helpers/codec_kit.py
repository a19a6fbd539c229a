"""Decode bytes in tests: a Malformed is returned as ("Malformed", text), which can be compared.

The checks of a codec are in gserver.testing.codec_checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gserver import testing
from gserver.codecs import Codec
from gserver.testing.codec_checks import MakeCodec, comparable

__all__ = ["decode", "feed"]


def feed(codec: Codec, pieces: Iterable[bytes]) -> list[Any]:
    """Feed the pieces to the codec one after another; return the messages."""
    return [comparable(message) for message in testing.feed(codec, pieces)]


def decode(make: MakeCodec, wire: bytes) -> list[Any]:
    """Return the messages of `wire`, received at once; it must end with a whole message."""
    codec = make()
    messages = feed(codec, [wire])
    codec.eof()
    return messages
