r"""A key-value server in memory that speaks RESP 2, the protocol of Redis: PING, GET, SET, DEL, INCR.

Start it. It has one worker, because each worker has its own memory:

    $ gserver resp:app -b 127.0.0.1:3030

Talk to it with any client of Redis that speaks version 2 of the protocol (redis-py: `Redis(protocol=2)`):

    $ redis-cli -u redis://127.0.0.1:3030 SET greeting hello EX 60
    OK
    $ redis-cli -u redis://127.0.0.1:3030 GET greeting
    hello

Load it with two commands in one message. Each reply is compared with the expected one:

    $ loadtests run json --host tcp://127.0.0.1:3030 --codec raw \
        --message 'SET k v\r\nGET k\r\n' --expect '+OK\r\n$1\r\nv\r\n'
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import gevent

from gserver import Connection, Fault, FrameTooLarge, ParserCodec, ProtocolError, Service
from gserver.errors import InvalidHeader

MAX_WORDS = 1024  # of a command
INTEGER = re.compile(rb"-?\d{1,19}")


class Line(bytes):
    """A reply of one line: a status, an error or the null. Other bytes are sent as a string."""


OK, PONG, NULL = Line(b"+OK"), Line(b"+PONG"), Line(b"$-1")


class Resp(ParserCodec):
    """Decodes commands: an array of strings, or a line of words ("inline"). Encodes replies and commands.

    Args:
        max_bytes: longest line, and all strings of a command together; default 1 MiB.
    """

    def __init__(self, max_bytes: int = 1024 * 1024) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    def parse(self) -> Generator[None, None, list[bytes] | None]:
        line = yield from self._line()
        words, left = line.split(), self._max_bytes
        if line.startswith(b"*"):
            words = []
            for _ in range(_size(line, b"*", MAX_WORDS)):
                size = _size((yield from self._line()), b"$", left)
                words.append((yield from self.read(size + 2))[:-2])
                left -= size
        return words or None  # Redis ignores an empty command

    def _line(self) -> Generator[None, None, bytes]:
        return (yield from self.read_until(b"\n", self._max_bytes + 1)).rstrip(b"\r")

    def encode(self, message: Any) -> bytes:
        match message:
            case Line():
                return message + b"\r\n"
            case bytes():
                return b"$%d\r\n%b\r\n" % (len(message), message)
            case int():
                return b":%d\r\n" % message
            case list():
                return b"*%d\r\n" % len(message) + b"".join(map(self.encode, message))
        raise TypeError(f"RESP has no {type(message).__name__}")


def _size(line: bytes, sign: bytes, most: int) -> int:
    if line[:1] != sign or not line[1:].isdigit():
        raise InvalidHeader(f"expected {sign.decode()} and a length, got {line[:20]!r}")
    if (size := int(line[1:20])) > most:
        raise FrameTooLarge(f"the length is {size}, the limit is {most}")
    return size


values: dict[bytes, bytes] = {}
timers: dict[bytes, gevent.Greenlet[..., None]] = {}  # of the keys that expire


def delete(key: bytes) -> bool:
    if timer := timers.pop(key, None):
        timer.kill(block=False)
    return values.pop(key, None) is not None


def expire(key: bytes) -> None:
    del values[key], timers[key]


def add(key: bytes, number: bytes) -> int | Line:
    terms = [values.get(key, b"0"), number]
    if all(INTEGER.fullmatch(term) for term in terms) and -(2**63) <= (total := sum(map(int, terms))) < 2**63:
        values[key] = b"%d" % total
        return total
    return error("value is not an integer or out of range")


def error(text: str) -> Line:
    return Line(f"-ERR {text}".encode())


def handle(command: list[bytes], conn: Connection) -> Any:
    name, *arguments = command
    match [name.upper(), *arguments]:
        case [b"PING"]:
            return PONG
        case [b"PING" | b"ECHO", text]:
            return text
        case [b"GET", key]:
            return values.get(key, NULL)
        case [b"SET", key, value]:
            delete(key)
            values[key] = value
            return OK
        case [b"SET", key, value, b"EX" | b"ex", time] if time.isdigit() and 0 < int(time) < 10**9:
            delete(key)
            values[key] = value
            timers[key] = gevent.spawn_later(int(time), expire, key)
            return OK
        case [b"DEL", _, *_]:
            return sum(map(delete, arguments))
        case [b"INCR", key]:
            return add(key, b"1")
        case [b"INCRBY", key, number]:
            return add(key, number)
        case [b"PING" | b"ECHO" | b"GET" | b"SET" | b"DEL" | b"INCR" | b"INCRBY", *_]:
            return error(f"wrong arguments for '{name.decode().lower()}' command")
    return error(f"unknown command {name[:60]!r}")


def failed(fault: Fault, conn: Connection) -> Line:
    return error(f"Protocol error: {fault}" if isinstance(fault, ProtocolError) else "internal error")


app = Service(handle, Resp, on_error=failed, probe=[b"PING"])
