"""The PROXY protocol: Twisted's tests with our reader, comparison with aiosmtpd's parser, and cases beyond both."""

from __future__ import annotations

import asyncio
import struct
import unittest
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gserver.errors import CloseReason, ProxyError
from gserver.server.proxy_protocol import ProxyHeader, ProxyReader, crc32c, peer_of

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
IPV4 = bytes((1, 2, 3, 4, 5, 6, 7, 8)) + struct.pack("!HH", 9, 10)
V1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n"
REAL = ("127.0.0.1", 1)


def v2(rest: bytes = IPV4, *, command: int = 0x21, family: int = 0x11, size: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(rest) if size is None else size) + rest


def read(data: bytes, mode: Literal["v1", "v2", "auto"] = "auto") -> ProxyHeader | None:
    reader = ProxyReader(mode)
    reader.feed(data)
    return reader.header


def tlv(type_: int, value: bytes) -> bytes:
    return bytes((type_,)) + struct.pack("!H", len(value)) + value


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (V1, ProxyHeader(1, "PROXY", ("1.2.3.4", 9), ("5.6.7.8", 10))),
        (b"PROXY TCP6 ::1 2001:DB8::2 0 65535\r\n", ProxyHeader(1, "PROXY", ("::1", 0), ("2001:db8::2", 65535))),
        (b"PROXY UNKNOWN\r\n", ProxyHeader(1, "PROXY")),
        (b"PROXY UNKNOWN what ever 1 2 3\r\n", ProxyHeader(1, "PROXY")),
        (v2(), ProxyHeader(2, "PROXY", ("1.2.3.4", 9), ("5.6.7.8", 10))),
        (
            v2(bytes(15) + b"\1" + bytes(15) + b"\2" + IPV4[8:], family=0x21),
            ProxyHeader(2, "PROXY", ("::1", 9), ("::2", 10)),
        ),
        (v2(b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0"), family=0x31), ProxyHeader(2, "PROXY", b"/a", b"/b")),
        (v2(b"", command=0x20, family=0), ProxyHeader(2, "LOCAL")),
        (v2(b"anything", command=0x20), ProxyHeader(2, "LOCAL")),
        (v2(b"", family=0), ProxyHeader(2, "PROXY")),
        (v2(family=0x10), ProxyHeader(2, "PROXY")),
        (v2(tlv(5, b"id"), family=0), ProxyHeader(2, "PROXY", tlvs=((5, b"id"),))),
        (v2(IPV4, family=0x12), ProxyHeader(2, "PROXY", ("1.2.3.4", 9), ("5.6.7.8", 10))),
        (
            v2(IPV4 + tlv(4, b"nothing") + tlv(0xE0, b"x") + tlv(5, b"id")),
            ProxyHeader(2, "PROXY", ("1.2.3.4", 9), ("5.6.7.8", 10), ((0xE0, b"x"), (5, b"id"))),
        ),
    ],
)
def test_headers_are_read(data: bytes, header: ProxyHeader) -> None:
    assert read(data) == header


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"G", "no PROXY header of v1 or v2: the first bytes are b'G'"),
        (b"PROXI", "no PROXY header of v1 or v2"),
        (b"PROXY TCP5 1.2.3.4 5.6.7.8 9 10\r\n", "the family b'TCP5'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n", "has 5 words"),
        (b"PROXY TCP4  1.2.3.4 5.6.7.8 9 10\r\n", "has 7 words"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10 \r\n", "has 7 words"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n", "does not end with CRLF"),
        (b"PROXY TCP4 1.2.3.256 5.6.7.8 9 10\r\n", "the address b'1.2.3.256'"),
        (b"PROXY TCP4 01.2.3.4 5.6.7.8 9 10\r\n", "the address b'01.2.3.4'"),
        (b"PROXY TCP4 ::1 5.6.7.8 9 10\r\n", "the address b'::1'"),
        (b"PROXY TCP6 1.2.3.4 ::1 9 10\r\n", "the address b'1.2.3.4'"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 9 10\r\n", "the address b'fe80::1%eth0'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 09 10\r\n", "the port b'09'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 +9 10\r\n", r"the port b'\+9'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n", "the port b'65536'"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 \xb2\r\n", r"the port b'\\xb2'"),
        (b"PROXY UNKNOWN" + b"x" * 100, "without an end in 107 bytes"),
        (v2(command=0x11), "of version 1"),
        (v2(command=0x22), "the command 2"),
        (v2(family=0x41), "family 4 and transport 1"),
        (v2(family=0x13), "family 1 and transport 3"),
        (v2(IPV4[:11]), "with 11 bytes for addresses, its family needs 12"),
        (v2(b"", size=5000), "of 5016 bytes, the limit is 4096"),
        (v2(IPV4 + b"\x01"), "an extension that is cut off"),
        (v2(IPV4 + b"\x01\x00\x05abc"), "an extension that is cut off"),
        (v2(IPV4 + tlv(3, b"\0\0\0\0")), "the checksum 00000000, which is wrong"),
        (v2(IPV4 + tlv(3, b"\0\0\0")), "the checksums"),
    ],
)
def test_invalid_headers_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ProxyError, match=says) as caught:
        read(data)
    assert caught.value.close_reason is CloseReason.HANDSHAKE_FAILED


def test_only_the_configured_version_is_read() -> None:
    assert read(V1, "v1") is not None
    assert read(v2(), "v2") is not None
    with pytest.raises(ProxyError, match="no PROXY header of v2"):
        read(b"P", "v2")
    with pytest.raises(ProxyError, match="no PROXY header of v1"):
        read(b"\r", "v1")


@pytest.mark.parametrize("data", [V1, v2(), v2(IPV4 + tlv(5, b"id"))])
@pytest.mark.parametrize("behind", [b"", b"PROXY ", b"\r\n", b"hello" * 100])
def test_a_header_is_taken_to_its_last_byte_and_no_further(data: bytes, behind: bytes) -> None:
    for cut in range(1, len(data)):
        reader = ProxyReader("auto")
        assert reader.feed(data[:cut]) == cut
        assert reader.header is None
        assert reader.feed(data[cut:] + behind) == len(data) - cut
        assert reader.header == read(data)


def test_a_header_may_come_byte_by_byte() -> None:
    for data in (V1, v2()):
        reader = ProxyReader("auto")
        assert [reader.feed(data[at : at + 1]) for at in range(len(data))] == [1] * len(data)
        assert reader.header == read(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_the_checksum_is_that_of_iscsi(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("before", [b"", tlv(5, b"id")])
def test_a_checksum_is_over_the_header_with_zeros_in_its_place(before: bytes) -> None:
    blank = v2(IPV4 + before + tlv(3, bytes(4)) + tlv(0xE1, b"x"))
    at = len(SIGNATURE) + 4 + len(IPV4) + len(before) + 3
    data = blank[:at] + struct.pack("!I", crc32c(blank)) + blank[at + 4 :]

    header = read(data)
    assert header is not None
    assert header.tlv(0xE1) == b"x"
    for index in [*range(len(SIGNATURE) + 4, len(SIGNATURE) + 4 + len(IPV4)), at, at + 3, len(data) - 1]:
        broken = bytearray(data)
        broken[index] ^= 1
        with pytest.raises(ProxyError):
            read(bytes(broken))


def test_extensions_have_names() -> None:
    header = read(v2(IPV4 + tlv(1, b"h2") + tlv(2, b"example.org") + tlv(5, b"id")))

    assert header is not None
    assert (header.alpn, header.authority, header.unique_id, header.tlv(9)) == (b"h2", b"example.org", b"id", None)


@pytest.mark.parametrize(
    ("data", "peer"),
    [
        (V1, ("1.2.3.4", 9)),
        (b"PROXY UNKNOWN\r\n", REAL),
        (v2(command=0x20), REAL),
        (v2(b"", family=0), REAL),
        (v2(bytes(216), family=0x31), b""),
    ],
)
def test_peer_of_returns_the_client_or_the_real_peer(data: bytes, peer: Any) -> None:
    header = read(data)
    assert header is not None
    assert peer_of(header, REAL) == peer


# Random input

HEADERS = st.sampled_from([V1, b"PROXY UNKNOWN\r\n", v2(), v2(b"", command=0x20), v2(IPV4 + tlv(5, b"id"))])


@given(HEADERS, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255))), st.binary(max_size=20))
def test_nothing_but_a_proxy_error_is_ever_raised(data: bytes, changes: list[tuple[int, int]], behind: bytes) -> None:
    changed = bytearray(data + behind)
    for at, octet in changes:
        changed[at % len(changed)] = octet
    reader = ProxyReader("auto")
    try:
        taken = reader.feed(bytes(changed))
    except ProxyError:
        return
    assert 0 < taken <= len(changed)
    assert reader.header is not None or taken == len(changed)


# Other implementations

# Imported with the module: files that it opens stay open, which is not a leak of a test.
pytest.importorskip("twisted.internet.reactor")


def twisted_parser(mode: Literal["v1", "v2"], end: bytes) -> Callable[[bytes], Any]:
    """Our reader behind the interface of Twisted's parser, with Twisted's exceptions and addresses."""
    from twisted.internet import address
    from twisted.protocols.haproxy import _exceptions as known
    from twisted.protocols.haproxy._info import ProxyInfo

    class Refused(known.InvalidNetworkProtocol, known.MissingAddressData): ...

    def endpoint(where: Any) -> Any:
        if where is None:
            return None
        if isinstance(where, bytes):
            return address.UNIXAddress(where)
        kind = address.IPv6Address if ":" in where[0] else address.IPv4Address
        return kind("TCP", *where)

    def parse(line: bytes) -> Any:
        try:
            header = read(line + end, mode)
        except ProxyError as error:
            raise Refused(str(error)) from error
        assert header is not None
        return ProxyInfo(line, endpoint(header.source), endpoint(header.destination))

    return parse


def run_twisted(tests: Any, names: list[str]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.TestSuite(tests(name) for name in names).run(result)
    return result


def test_twisteds_tests_of_version_1_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.protocols.haproxy import _v1parser
    from twisted.protocols.haproxy.test.test_v1parser import V1ParserTests

    monkeypatch.setattr(_v1parser.V1Parser, "parse", staticmethod(twisted_parser("v1", b"\r\n")))
    # Not tests of a parser, but of how Twisted feeds it. The last one has a TCP4 line with IPv6 addresses.
    names = [name for name in unittest.TestLoader().getTestCaseNames(V1ParserTests) if "feed" not in name.lower()]
    names = [name for name in names if "overflow" not in name.lower()]
    result = run_twisted(V1ParserTests, names)

    assert len(names) >= 6
    assert [(str(test), trace.splitlines()[-1]) for test, trace in result.failures + result.errors] == []


def test_twisteds_tests_of_version_2_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.protocols.haproxy import _v2parser
    from twisted.protocols.haproxy.test.test_v2parser import V2ParserTests

    monkeypatch.setattr(_v2parser.V2Parser, "parse", staticmethod(twisted_parser("v2", b"")))
    names = [name for name in unittest.TestLoader().getTestCaseNames(V2ParserTests) if "feed" not in name.lower()]
    result = run_twisted(V2ParserTests, names)

    assert len(names) >= 15
    assert [(str(test), trace.splitlines()[-1]) for test, trace in result.failures + result.errors] == []


def aiosmtpd_says(data: bytes) -> tuple[Any, Any] | None:
    """Source and destination by aiosmtpd's parser; None if it refuses."""
    from aiosmtpd.proxy_protocol import get_proxy

    async def ask() -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await get_proxy(reader)

    said = asyncio.run(ask())
    if not said.valid:
        return None
    return (_plain(said.src_addr), said.src_port), (_plain(said.dst_addr), said.dst_port)


def _plain(address: Any) -> Any:
    return address.rstrip(b"\0") if isinstance(address, bytes) else None if address is None else str(address)


def we_say(data: bytes) -> tuple[Any, Any] | None:
    try:
        header = read(data)
    except ProxyError:
        return None
    if header is None:
        return None
    return _pair(header.source), _pair(header.destination)


def _pair(end: Any) -> Any:
    return (end, None) if isinstance(end, bytes) else end or (None, None)


PORTS = st.sampled_from(["0", "1", "65535", "65536", "01", "-1", "x", "", " 5"])
ADDRESSES = st.sampled_from(["1.2.3.4", "255.255.255.255", "256.1.1.1", "::1", "2001:db8::1", "1.2.3", "g::", ""])


@given(st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "UDP4", "TCP"]), ADDRESSES, ADDRESSES, PORTS, PORTS, st.booleans())
@example("TCP4", "222.222.22.222", "111.11.11.111", "33504", "25", True)
@example("TCP6", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "42300", "443", True)
def test_aiosmtpds_parser_agrees_on_version_1(
    family: str, source: str, destination: str, sport: str, dport: str, has_end: bool
) -> None:
    data = f"PROXY {family} {source} {destination} {sport} {dport}".encode() + (b"\r\n" if has_end else b"\n")

    assert we_say(data) == aiosmtpd_says(data)


@given(
    st.sampled_from([0x21, 0x22, 0x11]),
    st.sampled_from([0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x41, 0x13]),
    st.binary(min_size=0, max_size=16),
    st.booleans(),
)
def test_aiosmtpds_parser_agrees_on_version_2(command: int, family: int, noise: bytes, is_cut: bool) -> None:
    """Except for LOCAL, of which it reads the addresses, and for extensions, which it does not check."""
    sizes = {1: 12, 2: 36, 3: 216}
    payload = (noise * 300)[: sizes.get(family >> 4, 12)].ljust(sizes.get(family >> 4, 12), b"\x01")
    data = v2(payload[:-1] if is_cut else payload, command=command, family=family)

    assert we_say(data) == aiosmtpd_says(data)


def test_of_the_headers_that_aiosmtpd_ships_we_refuse_those_with_wrong_checksums() -> None:
    """Section 2.2.3 of the specification: a receiver that can check must abort if the checksum is wrong."""
    header = v2(IPV4 + tlv(3, b"T\xfd\xc6\xff") + tlv(2, b"AUTHORITY"))

    assert aiosmtpd_says(header) is not None
    assert we_say(header) is None
