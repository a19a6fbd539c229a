"""Where to listen, as text and as a value: HOST:PORT, [V6]:PORT or unix:PATH."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bind", "TcpBind", "UnixBind", "parse_bind"]

_EXPECTED = "expected HOST:PORT, [V6]:PORT or unix:PATH"


@dataclass(frozen=True)
class TcpBind:
    host: str  # a name, an address, or "" for every IPv4 address
    port: int  # 0: the kernel chooses

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixBind:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Bind = TcpBind | UnixBind


def parse_bind(text: str) -> Bind:
    """Return the Bind that `text` names; ValueError says what is wrong with it."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ValueError(f"{text!r} names no path: {_EXPECTED}")
        return UnixBind(path)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} has no port: {_EXPECTED}")
    if int(port) > 65535:
        raise ValueError(f"{text!r} has port {port}: expected 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return TcpBind(host[1:-1], int(port))
    if ":" in host:
        raise ValueError(f"{text!r} has an IPv6 address without brackets: {_EXPECTED}")
    return TcpBind("" if host == "*" else host, int(port))
