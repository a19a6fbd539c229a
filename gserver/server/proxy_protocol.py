"""The PROXY protocol, versions 1 and 2: reads the header with the address of a proxy's client. No I/O.

After HAProxy's specification (doc/proxy-protocol.txt, 2026-04). The header comes first on a connection, before TLS. The
reader gets the bytes that are in the socket, and returns how many of them belong to the header, so that not a byte
beyond it is taken. Bytes that cannot become a header are refused at the first byte that shows it.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Literal

from gserver.errors import ProxyError

__all__ = ["ProxyHeader", "ProxyReader", "peer_of"]

DEFAULT_MAX_BYTES = 4096

_V1_BEGIN = b"PROXY "
_V1_MAX_BYTES = 107  # section 2.1: with CRLF
_V1_FAMILIES: dict[bytes, type[IPv4Address] | type[IPv6Address]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES = 16
_V2_COMMANDS: dict[int, Literal["LOCAL", "PROXY"]] = {0: "LOCAL", 1: "PROXY"}
_UNIX_PATH_BYTES = 108

_TLV_ALPN, _TLV_AUTHORITY, _TLV_CRC32C, _TLV_NOOP, _TLV_UNIQUE_ID = 0x01, 0x02, 0x03, 0x04, 0x05

#: (host, port), or the path of a unix socket.
Endpoint = tuple[str, int] | bytes


@dataclass(frozen=True)
class ProxyHeader:
    """The PROXY header of a connection.

    Attributes:
        version: 1 or 2.
        command: "PROXY"; "LOCAL" for a connection of the proxy itself, such as a health check.
        source, destination: the addresses of the client's connection to the proxy; None if the header has none.
        tlvs: type and value of each extension of version 2, in order.
        sender: the address of the proxy, as accept() returned it; not compared.
    """

    version: int
    command: Literal["LOCAL", "PROXY"]
    source: Endpoint | None = None
    destination: Endpoint | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()
    sender: Any = field(default=None, compare=False)

    def tlv(self, type_: int) -> bytes | None:
        """Return the value of the first extension of this type, or None."""
        return next((value for each, value in self.tlvs if each == type_), None)

    @property
    def alpn(self) -> bytes | None:
        return self.tlv(_TLV_ALPN)

    @property
    def authority(self) -> bytes | None:
        """The host name that the client requested, as in SNI."""
        return self.tlv(_TLV_AUTHORITY)

    @property
    def unique_id(self) -> bytes | None:
        return self.tlv(_TLV_UNIQUE_ID)


def peer_of(header: ProxyHeader, real_peer: Any) -> Any:
    """Return the address of the proxy's client, or `real_peer` if the header has none."""
    if header.command == "LOCAL" or header.source is None:
        return real_peer
    return header.source


class ProxyReader:
    """Reads the header of one connection.

    Args:
        mode: the version that the header must have; "auto": either.
        max_bytes: the longest header that is accepted; default 4096.

    Attributes:
        header: the header; None until it is complete.
    """

    def __init__(self, mode: Literal["v1", "v2", "auto"], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.header: ProxyHeader | None = None
        self._begins = [begin for begin in (_V1_BEGIN, _V2_SIGNATURE) if mode == "auto" or _is_of(begin, mode)]
        self._seen = b""  # bytes taken so far

    def feed(self, peeked: bytes) -> int:
        """Return how many of `peeked` belong to the header; the caller takes so many from the socket.

        Args:
            peeked: the bytes in the socket, which follow those taken before. All belong to an incomplete header.

        Raises ProxyError if they cannot belong to a header.
        """
        data = self._seen + peeked
        if not any(data[: len(begin)] == begin[: len(data)] for begin in self._begins):
            names = " or ".join({_V1_BEGIN: "v1", _V2_SIGNATURE: "v2"}[begin] for begin in self._begins)
            raise ProxyError(f"no PROXY header of {names}: the first bytes are {data[:16]!r}")
        size = self._read_v1(data) if data[:1] == b"P" else self._read_v2(data)
        taken = len(peeked) if size is None else size - len(self._seen)
        self._seen += peeked[:taken]
        return taken

    def _read_v1(self, data: bytes) -> int | None:
        """Return the length of the header at the start of `data`; None if it is not complete."""
        end = data.find(b"\n", 0, _V1_MAX_BYTES)
        if end < 0:
            if len(data) >= _V1_MAX_BYTES:
                raise ProxyError(f"PROXY v1 header without an end in {_V1_MAX_BYTES} bytes: {data[:40]!r}")
            return None
        self.header = _parse_v1(data[: end + 1])
        return end + 1

    def _read_v2(self, data: bytes) -> int | None:
        if len(data) > 12:
            _check_v2_command(data[12])
        if len(data) < _V2_FIXED_BYTES:
            return None
        size = _V2_FIXED_BYTES + int.from_bytes(data[14:16], "big")
        if size > self.max_bytes:
            raise ProxyError(f"PROXY v2 header of {size} bytes, the limit is {self.max_bytes}")
        if len(data) < size:
            return None
        self.header = _parse_v2(data[:size])
        return size


def _is_of(begin: bytes, mode: str) -> bool:
    return (begin == _V1_BEGIN) == (mode == "v1")


# Version 1


def _parse_v1(line: bytes) -> ProxyHeader:
    if not line.endswith(b"\r\n"):
        raise ProxyError(f"PROXY v1 header {line!r} does not end with CRLF")
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":  # section 2.1: the rest is ignored
        return ProxyHeader(1, "PROXY")
    family = _V1_FAMILIES.get(words[1])
    if family is None:
        raise ProxyError(f"PROXY v1 header {line!r} has the family {words[1]!r}, must be TCP4, TCP6 or UNKNOWN")
    if len(words) != 6:
        raise ProxyError(f"PROXY v1 header {line!r} has {len(words)} words, must have 6, with one space between")
    source, destination, source_port, destination_port = words[2:]
    return ProxyHeader(
        1,
        "PROXY",
        (_address(line, family, source), _port(line, source_port)),
        (_address(line, family, destination), _port(line, destination_port)),
    )


def _address(line: bytes, family: type[IPv4Address] | type[IPv6Address], text: bytes) -> str:
    try:
        if b"%" in text:  # a zone has a meaning only on its own host
            raise AddressValueError
        return str(family(text.decode("ascii")))
    except (AddressValueError, UnicodeDecodeError):
        raise ProxyError(f"PROXY v1 header {line!r} has the address {text!r}, which is not of its family") from None


def _port(line: bytes, text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (text != b"0" and text.startswith(b"0")) or int(text) > 65535:
        raise ProxyError(f"PROXY v1 header {line!r} has the port {text!r}, must be 0 to 65535, without leading zeros")
    return int(text)


# Version 2


def _check_v2_command(octet: int) -> None:
    if octet >> 4 != 2:
        raise ProxyError(f"PROXY header of version {octet >> 4}, behind the signature of version 2")
    if octet & 0x0F not in _V2_COMMANDS:
        raise ProxyError(f"PROXY v2 header with the command {octet & 0x0F}, must be 0 (LOCAL) or 1 (PROXY)")


def _parse_v2(data: bytes) -> ProxyHeader:
    command = _V2_COMMANDS[data[12] & 0x0F]
    family, transport = data[13] >> 4, data[13] & 0x0F
    if family > 3 or transport > 2:  # section 2.2: unassigned, must be refused
        raise ProxyError(f"PROXY v2 header with family {family} and transport {transport}, must be 0 to 3 and 0 to 2")
    if command == "LOCAL":  # section 2.2: the rest must be ignored
        return ProxyHeader(2, command)
    rest = data[_V2_FIXED_BYTES:]
    if not family or not transport:  # section 2.2: unspecified; the real endpoints are used
        return ProxyHeader(2, command, tlvs=_tlvs_or_none(rest))
    source, destination, used = _addresses(family, rest)
    tlvs = _tlvs(rest[used:])
    _check_crc(data, tlvs)
    return ProxyHeader(2, command, source, destination, tuple(tlv for tlv in tlvs if tlv[0] != _TLV_NOOP))


def _addresses(family: int, rest: bytes) -> tuple[Endpoint, Endpoint, int]:
    """Return source, destination, and how many bytes they take."""
    address_bytes = {1: 4, 2: 16, 3: _UNIX_PATH_BYTES}[family]
    size = 2 * address_bytes + (0 if family == 3 else 4)
    if len(rest) < size:
        raise ProxyError(f"PROXY v2 header with {len(rest)} bytes for addresses, its family needs {size}")
    first, second = rest[:address_bytes], rest[address_bytes : 2 * address_bytes]
    if family == 3:
        return first.rstrip(b"\0"), second.rstrip(b"\0"), size
    ports = struct.unpack("!HH", rest[2 * address_bytes : size])
    kind = socket.AF_INET if family == 1 else socket.AF_INET6
    return (socket.inet_ntop(kind, first), ports[0]), (socket.inet_ntop(kind, second), ports[1]), size


def _tlvs(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if len(data) < at + 3 or end > len(data):
            raise ProxyError(f"PROXY v2 header with an extension that is cut off: {data[at : at + 16]!r}")
        found.append((data[at], data[at + 3 : end]))
        at = end
    return found


def _tlvs_or_none(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return the extensions behind an unspecified family; () if these bytes are an address without a meaning."""
    try:
        return tuple(_tlvs(data))
    except ProxyError:
        return ()


def _check_crc(header: bytes, tlvs: list[tuple[int, bytes]]) -> None:
    """Check the CRC-32C, if there is one (section 2.2.3): of the whole header, with zeros in place of the checksum."""
    sums = [value for type_, value in tlvs if type_ == _TLV_CRC32C]
    if not sums:
        return
    if len(sums) > 1 or len(sums[0]) != 4:
        raise ProxyError(f"PROXY v2 header with the checksums {sums!r}, must be one of 4 bytes")
    tail = sum(len(value) + 3 for _, value in tlvs)
    before = sum(len(value) + 3 for _, value in tlvs[: [type_ for type_, _ in tlvs].index(_TLV_CRC32C)])
    at = len(header) - tail + before + 3
    if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(sums[0], "big"):
        raise ProxyError(f"PROXY v2 header with the checksum {sums[0].hex()}, which is wrong")


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of RFC 3720, appendix B.4."""
    value = 0xFFFFFFFF
    for octet in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ octet) & 0xFF]
    return value ^ 0xFFFFFFFF
