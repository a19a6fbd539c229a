"""PROXY headers, and rules for servers that require them."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from gserver.errors import CloseReason
from gserver.limits.access_list import AccessList, parse_networks
from gserver.server.handshake import EntranceRules
from gserver.service import Service
from gserver.tls.contexts import Tls
from tests.helpers.limited import telling_echo

__all__ = ["BOTH", "CLIENT", "V1", "V2", "V2_SIGNATURE", "Told", "proxied", "v1", "v2"]

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT = ("192.0.2.7", 5678)


def v1(source: str = "192.0.2.7") -> bytes:
    """Return a header of version 1, for TCP over IPv4."""
    return f"PROXY TCP4 {source} 192.0.2.1 5678 443\r\n".encode()


def v2(command: int = 1, tlvs: bytes = b"") -> bytes:
    """Return a header of version 2."""
    rest = socket.inet_aton("192.0.2.7") + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 5678, 443) + tlvs
    return V2_SIGNATURE + bytes((0x20 | command, 0x11)) + struct.pack("!H", len(rest)) + rest


#: Both contain the address CLIENT.
V1, V2 = v1(), v2()
BOTH = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])


def proxied(mode: Any = "auto", proxies: str = "127.0.0.1", tls: Tls | None = None) -> EntranceRules:
    """Return rules that trust the networks in `proxies`."""
    return EntranceRules(mode, AccessList(parse_networks([proxies]), ()), tls)


class Told:
    """Records the calls of a service's on_open and on_close."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        self.closed: list[tuple[Any, CloseReason]] = []

    def service(self) -> Service:
        return telling_echo(
            on_open=lambda conn: self.opened.append(conn.peer),
            on_close=lambda conn, reason: self.closed.append((conn.peer, reason)),
        )
