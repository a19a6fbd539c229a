"""Addresses to listen on: parsed from text, and as values.

HOST:PORT, [V6]:PORT                            TCP; [::]:PORT accepts IPv4 too, unless another bind does
unix:PATH[,mode=660][,user=NAME][,group=NAME]   a unix socket, its permissions and its owner
unix:@NAME                                      an abstract unix socket: no file, no permissions, no owner (unix(7))
fd://N                                          a listening socket that this process was started with
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Bind", "FdBind", "TcpBind", "UnixBind", "describe_address", "parse_bind"]

_EXPECTED = "expected HOST:PORT, [V6]:PORT, unix:PATH or fd://N"
_ABSTRACT = "@"  # systemd and ss also write the leading zero byte of such a name as @
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class TcpBind:
    host: str  # a name, an address, or "" for every IPv4 address
    port: int  # 0: the kernel chooses

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixBind:
    path: str  # of an abstract socket: "@" and its name
    mode: int | None = None  # permission bits; None: given by the umask
    user: str | None = None  # owner, a name or a number; None: the user of the server
    group: str | None = None

    @property
    def is_abstract(self) -> bool:
        return self.path.startswith(_ABSTRACT)

    @property
    def address(self) -> str:
        """The address for bind()."""
        return "\0" + self.path[1:] if self.is_abstract else self.path

    def __str__(self) -> str:
        mode = None if self.mode is None else f"{self.mode:o}"
        options = {"mode": mode, "user": self.user, "group": self.group}
        return f"unix:{self.path}" + "".join(f",{name}={value}" for name, value in options.items() if value is not None)


@dataclass(frozen=True)
class FdBind:
    fd: int
    name: str = field(default="", compare=False)  # the FileDescriptorName of systemd

    def __str__(self) -> str:
        return f"fd://{self.fd}"


Bind = TcpBind | UnixBind | FdBind


def describe_address(address: tuple[Any, ...] | str | bytes) -> str:
    """Convert an address from getsockname() to the text that parse_bind() accepts.

    Characters that cannot be printed are escaped.
    """
    if isinstance(address, tuple):
        scope = address[3] if len(address) == 4 else 0  # for a link-local address: the number of its interface
        return str(TcpBind(f"{address[0]}%{_interface(scope)}" if scope else address[0], address[1]))
    path = os.fsdecode(address)  # bytes for an abstract socket
    if path.startswith("\0"):
        path = _ABSTRACT + path[1:]
    return "unix:" + "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path)


def _interface(number: int) -> str:
    try:
        return socket.if_indextoname(number)
    except OSError:  # the interface no longer exists
        return str(number)


def parse_bind(text: str) -> Bind:
    """Parse an address to listen on; ValueError if it is malformed."""
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero byte: {_EXPECTED}")
    if text.startswith("unix:"):
        return _parse_unix(text)
    if text.startswith("fd://"):
        return FdBind(_number(text, "descriptor", text.removeprefix("fd://"), _LARGEST))
    host, colon, digits = text.rpartition(":")
    if not colon or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r} has no port: {_EXPECTED}")
    port = _number(text, "port", digits, 65535)
    if host.startswith("[") and host.endswith("]") and ":" in host:
        return TcpBind(host[1:-1], port)
    if not set("[:]").isdisjoint(host):
        raise ValueError(f"{text!r} has no IPv6 address in brackets: {_EXPECTED}")
    return TcpBind("" if host == "*" else host, port)


def _parse_unix(text: str) -> UnixBind:
    path, *options = text.removeprefix("unix:").split(",")
    if path in ("", _ABSTRACT):
        raise ValueError(f"{text!r} has no path: {_EXPECTED}")
    if options and path.startswith(_ABSTRACT):
        raise ValueError(f"{text!r} has the option {options[0]!r}: an abstract socket has no permissions and no owner")
    given: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in ("mode", "user", "group") or not equals or not value:
            raise ValueError(f"{text!r} has the option {option!r}: expected mode=OCTAL, user=NAME or group=NAME")
        if name in given:
            raise ValueError(f"{text!r} has the option {name!r} twice: expected it once")
        given[name] = value
    mode = _number(text, "mode", given.pop("mode"), 0o777, base=8) if "mode" in given else None
    return UnixBind(path, mode, **given)


def _number(text: str, what: str, digits: str, largest: int, base: int = 10) -> int:
    try:
        number = int(digits, base)  # ValueError also for thousands of digits
    except ValueError:
        number = -1
    if not 0 <= number <= largest:
        allowed = f"an octal number from 0 to {largest:o}" if base == 8 else f"a number from 0 to {largest}"
        raise ValueError(f"{text!r} has the {what} {digits!r}: expected {allowed}")
    return number
