"""Codecs: convert received bytes to messages, and messages to bytes. No I/O.

The contract of a codec. One codec object serves one connection, in both directions:

    receive(data)   takes the next bytes from the peer; data may begin and end anywhere in a message
    messages()      iterates over all messages that are complete, once; exhaust it before the next receive(). Raises a
                    ProtocolError at bytes that cannot be a message, after the valid messages before them
    encode(message) returns the bytes of one message; TypeError or ValueError for a message that cannot be encoded
    eof()           the peer sends nothing more: returns between messages, raises IncompleteMessage inside one
    partial         true after messages() is exhausted if part of a message has arrived (kept or discarded), false
                    between messages. A plain attribute, not a property, because it is read for every batch

After a ProtocolError, the codec stays in error: receive(), messages() and eof() raise the same error again. If only the
content of a message is invalid (a line that is not JSON; a message above the maximum with overflow="discard"), a
`Malformed` is delivered in its place. The cost is linear in the number of bytes, in pieces of any size. An idle codec
holds no buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gserver.codecs.content_length import ContentLength, JsonContentLength
from gserver.codecs.delimited import Delimited
from gserver.codecs.json_lines import JsonLines
from gserver.codecs.length_prefixed import LengthPrefixed
from gserver.codecs.lines import Lines
from gserver.codecs.malformed import Malformed
from gserver.codecs.msgpack import MsgPack
from gserver.codecs.netstring import Netstring
from gserver.codecs.octet_counted import OctetCounted
from gserver.codecs.parser_codec import ParserCodec
from gserver.codecs.raw import Raw
from gserver.codecs.varint_prefixed import VarintPrefixed
from gserver.errors import ConfigError

__all__ = [
    "CODECS",
    "Codec",
    "ContentLength",
    "Delimited",
    "JsonContentLength",
    "JsonLines",
    "LengthPrefixed",
    "Lines",
    "Malformed",
    "MsgPack",
    "Netstring",
    "OctetCounted",
    "ParserCodec",
    "Raw",
    "VarintPrefixed",
    "codec_named",
]


class Codec(Protocol):
    """The interface of a codec, for type checkers; the contract is in the docstring of this module.

    Example:
        class Digits:
            partial = False  # no message is ever incomplete

            def __init__(self):
                self._data = b""

            def receive(self, data):
                self._data += data

            def messages(self):
                data, self._data = self._data, b""
                return [int(each) for each in data.decode()]

            def encode(self, message):
                return b"%d" % message

            def eof(self):
                pass

        assert feed(Digits, b"42") == [4, 2]
    """

    partial: Any

    def receive(self, data: bytes) -> None:
        """Take the next bytes from the peer; they may begin and end anywhere in a message."""

    def messages(self) -> Iterable[Any]:
        """Iterate over the messages that are complete, each once. ProtocolError at bytes that cannot be a message."""

    def encode(self, message: Any) -> bytes:
        """Return the bytes of one message. TypeError or ValueError if it cannot be encoded."""

    def eof(self) -> None:
        """The peer sends nothing more. IncompleteMessage if it stopped inside a message."""


#: The codecs, by their names on command lines.
CODECS: dict[str, Callable[[], Codec]] = {
    "raw": Raw,
    "lines": Lines,
    "length": LengthPrefixed,
    "json_lines": JsonLines,
    "delimited": Delimited,
    "varint": VarintPrefixed,
    "netstring": Netstring,
    "octet_counted": OctetCounted,
    "content_length": ContentLength,
    "msgpack": MsgPack,
}


def codec_named(name: str) -> Callable[[], Codec]:
    """Return the factory of the codec `name`; ConfigError, with all names, if it is unknown."""
    try:
        return CODECS[name]
    except KeyError:
        raise ConfigError(f"unknown codec {name!r}: expected one of {', '.join(CODECS)}") from None
