"""ContentLength: a block of headers, a blank line, and a message of `Content-Length` bytes.

    Content-Length: 17\\r\\n
    \\r\\n
    {"jsonrpc":"2.0"}

The base protocol of the Language Server Protocol
(https://microsoft.github.io/language-server-protocol/specifications/lsp/3.17/specification/#baseProtocol), also that of
the Debug Adapter Protocol. Headers are as in HTTP (RFC 9110): names in either case, `1*DIGIT` for the length. Other
headers, such as Content-Type, are ignored. Anything that two parsers could interpret differently is an InvalidHeader: a
second length, a length with a sign or without digits, a line that is not a header, a single CR or LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gserver.codecs.json_values import DEFAULT_MAX_DEPTH, DuplicateKeys, JsonValues, encode_json
from gserver.codecs.length_framing import DEFAULT_MAX_BYTES, MAX_DIGITS, Frame, LengthFramed
from gserver.codecs.size_limit import Overflow
from gserver.codecs.wrong_type import not_bytes, not_json
from gserver.errors import InvalidHeader

__all__ = ["ContentLength", "JsonContentLength"]

# Maximum size of the block of headers, with its blank line.
MAX_HEADER_BYTES = 8 * 1024
BLANK_LINE = b"\r\n\r\n"
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\x00]*)")


class ContentLength(LengthFramed):
    """Messages after HTTP-like headers.

    Args:
        max_bytes: longest message accepted, without its headers; default 1 MiB. The headers may have 8 KiB.
        overflow: what a longer one becomes: FrameTooLarge ("close", the default), or a Malformed ("discard").
        max_discard: longest message that is discarded; default: 16 times max_bytes, at least 1 MiB.

    Example:
        assert feed(ContentLength, b"Content-Length: 3\\r\\n\\r\\none") == [b"one"]
    """

    __slots__ = ("_known", "_searched")

    def __init__(
        self, max_bytes: int = DEFAULT_MAX_BYTES, *, overflow: Overflow = "close", max_discard: int | None = None
    ) -> None:
        super().__init__(max_bytes, overflow, max_discard)
        self._searched = 0  # bytes of an incomplete block of headers that do not contain its end
        self._known: tuple[int, int] | None = None  # sizes of headers and message, while only the headers have arrived

    def _frame(self, buffer: bytes | bytearray, start: int) -> Frame | None:
        header_bytes, length = self._known or self._headers(buffer, start)
        if not header_bytes:
            return None
        begin = start + header_bytes
        end = begin + length
        self._known = (header_bytes, length) if len(buffer) < end <= begin + self._max_bytes else None
        return begin, end, end

    def _headers(self, buffer: bytes | bytearray, start: int) -> tuple[int, int]:
        """Return the size of the headers, 0 while they are incomplete, and their Content-Length."""
        end = buffer.find(BLANK_LINE, start + self._searched, start + MAX_HEADER_BYTES)
        size = len(buffer) - start
        if end < 0 and size < MAX_HEADER_BYTES:
            self._searched = max(0, size - len(BLANK_LINE) + 1)
            return 0, 0
        self._searched = 0
        try:
            if end < 0:
                raise InvalidHeader(f"headers of more than {MAX_HEADER_BYTES} bytes")
            return end + len(BLANK_LINE) - start, _content_length(bytes(buffer[start:end]))
        except InvalidHeader as error:
            raise self._fail(error) from None

    def encode(self, message: bytes) -> bytes:
        try:
            return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)
        except TypeError:
            raise not_bytes(self, message) from None


class JsonContentLength(ContentLength):
    """JSON values after HTTP-like headers, in UTF-8. A message that is not JSON is a Malformed, as in JsonLines.

    Args:
        max_bytes, overflow, max_discard: as in ContentLength.
        max_depth, duplicate_keys, type: as in JsonLines.

    Example:
        assert JsonContentLength().encode([1]) == b"Content-Length: 3\\r\\n\\r\\n[1]"
    """

    __slots__ = ("_values",)

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        max_depth: int = DEFAULT_MAX_DEPTH,
        duplicate_keys: DuplicateKeys = "last",
        overflow: Overflow = "close",
        max_discard: int | None = None,
        type: Any = Any,
    ) -> None:
        super().__init__(max_bytes, overflow=overflow, max_discard=max_discard)
        self._values = JsonValues(max_depth, duplicate_keys, type)

    def messages(self) -> Iterator[Any]:
        return map(self._values.decode, super().messages())

    def encode(self, message: Any) -> bytes:
        """Return the headers and the value; TypeError for a value that JSON does not have."""
        try:
            value = encode_json(message)
        except TypeError as error:
            raise not_json(self, message, error) from None
        return super().encode(value)


def _content_length(block: bytes) -> int:
    """Return the Content-Length of a block of headers; InvalidHeader if there is not exactly one."""
    values = []
    for line in block.split(b"\r\n"):
        header = HEADER.fullmatch(line)
        if header is None:
            raise InvalidHeader(f"{line[:80]!r} is not a header")
        if header[1].lower() == b"content-length":
            values.append(header[2].strip(b" \t"))
    if len(values) != 1:
        raise InvalidHeader(f"headers with {len(values)} Content-Length, must have one")
    if not values[0].isdigit() or len(values[0]) > MAX_DIGITS:
        raise InvalidHeader(f"Content-Length is {values[0][:80]!r}, must be at most {MAX_DIGITS} digits")
    return int(values[0])
