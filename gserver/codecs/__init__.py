"""Codecs: bytes in, messages out, and no I/O anywhere.

The contract. One codec object serves one connection in both directions:

    receive(data)   takes the next bytes of the peer, cut anywhere
    messages()      iterates over every message that is complete by now, once; take all of them before the next
                    receive(). Raises a ProtocolError where the bytes cannot be a message, after the good ones before it
    encode(message) returns the bytes that carry one message; TypeError or ValueError for what cannot be carried
    eof()           the peer will send no more: returns between messages, raises IncompleteMessage inside one
    partial         an attribute, not a property: once messages() is exhausted it is true while the peer is inside a
                    message (some of its bytes have come, kept or discarded, and not its last), false between messages

After a ProtocolError the codec stays in error: receive(), messages() and eof() raise the same error again. Where the
framing survives (text that is not JSON, on a line that is a line; a message over the maximum, if those are discarded) a
`Malformed` is delivered in place of the message. Cost is linear in the bytes, however they are cut. An idle codec holds
no buffer.
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
from gserver.codecs.netstring import Netstring
from gserver.codecs.octet_counted import OctetCounted
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
    "Netstring",
    "OctetCounted",
    "Raw",
    "VarintPrefixed",
    "codec_named",
]


class Codec(Protocol):
    """What a connection needs of a codec; see this module's contract."""

    partial: Any

    def receive(self, data: bytes) -> None: ...

    def messages(self) -> Iterable[Any]: ...

    def encode(self, message: Any) -> bytes: ...

    def eof(self) -> None: ...


#: The codecs by the names that settings and command lines use.
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
}


def codec_named(name: str) -> Callable[[], Codec]:
    """Return the factory of the codec `name`; ConfigError names the codecs there are."""
    try:
        return CODECS[name]
    except KeyError:
        raise ConfigError(f"unknown codec {name!r}: expected one of {', '.join(CODECS)}") from None
