"""Where to listen, as text and as a value.

HOST:PORT, [V6]:PORT                            TCP; [::]:PORT takes IPv4 too, unless another bind has it
unix:PATH[,mode=660][,user=NAME][,group=NAME]   a unix socket, its permissions and its owner
fd://N                                          a listening socket that this process was started with
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bind", "FdBind", "TcpBind", "UnixBind", "parse_bind"]

_EXPECTED = "expected HOST:PORT, [V6]:PORT, unix:PATH or fd://N"


@dataclass(frozen=True)
class TcpBind:
    host: str  # a name, an address, or "" for every IPv4 address
    port: int  # 0: the kernel chooses

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixBind:
    path: str
    mode: int | None = None  # permission bits; None: what the umask leaves
    user: str | None = None  # owner, a name or a number; None: whoever runs the server
    group: str | None = None

    def __str__(self) -> str:
        mode = None if self.mode is None else f"{self.mode:o}"
        options = {"mode": mode, "user": self.user, "group": self.group}
        return f"unix:{self.path}" + "".join(f",{name}={value}" for name, value in options.items() if value is not None)


@dataclass(frozen=True)
class FdBind:
    fd: int

    def __str__(self) -> str:
        return f"fd://{self.fd}"


Bind = TcpBind | UnixBind | FdBind


def parse_bind(text: str) -> Bind:
    """Return the Bind that `text` names; ValueError says what is wrong with it."""
    if text.startswith("unix:"):
        return _parse_unix(text)
    if text.startswith("fd://"):
        return FdBind(_number(text, text.removeprefix("fd://"), "descriptor", 10))
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


def _parse_unix(text: str) -> UnixBind:
    path, *options = text.removeprefix("unix:").split(",")
    if not path:
        raise ValueError(f"{text!r} names no path: {_EXPECTED}")
    given: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in ("mode", "user", "group") or not equals or not value:
            raise ValueError(f"{text!r} has the option {option!r}: expected mode=OCTAL, user=NAME or group=NAME")
        given[name] = value
    mode = _number(text, given.pop("mode"), "mode", 8) if "mode" in given else None
    if mode is not None and mode > 0o777:
        raise ValueError(f"{text!r} has mode {mode:o}: expected at most 777")
    return UnixBind(path, mode, **given)


def _number(text: str, digits: str, what: str, base: int) -> int:
    try:
        number = int(digits, base)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"{text!r} has the {what} {digits!r}: expected {'an octal' if base == 8 else 'a'} number")
    return number
