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
from collections.abc import Generator, Iterator
from typing import Any

import gevent

from gserver import Connection, Fault, FrameTooLarge, ProtocolError, Service
from gserver.errors import IncompleteMessage, InvalidHeader

MAX_WORDS = 1024  # of a command
INTEGER = re.compile(rb"-?\d{1,19}")


class Error(str):
    """An error reply."""


class Nil:
    """The null of RESP. A handler that returns None sends no reply."""


NIL = Nil()


class Resp:
    """Decodes commands: an array of strings, or a line of words ("inline"). Encodes replies and commands.

    Args:
        max_bytes: longest line, and all strings of a command together; default 1 MiB.
    """

    def __init__(self, max_bytes: int = 1024 * 1024) -> None:
        self.partial = False
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._error: ProtocolError | None = None
        self._commands = self._parse()

    def receive(self, data: bytes) -> None:
        self._raise_error()
        self._buffer += data

    def messages(self) -> Iterator[list[bytes]]:
        self._raise_error()
        try:
            while (command := next(self._commands)) is not None:
                yield command
        except ProtocolError as error:
            self._fail(error)

    def eof(self) -> None:
        self._raise_error()
        if self.partial:
            self._fail(IncompleteMessage("the peer stopped inside a command"))

    def encode(self, message: Any) -> bytes:
        match message:
            case bytes():
                return b"$%d\r\n%b\r\n" % (len(message), message)
            case str():
                return b"%b%b\r\n" % (b"-" if isinstance(message, Error) else b"+", message.encode())
            case int():
                return b":%d\r\n" % message
            case Nil():
                return b"$-1\r\n"
            case list():
                return b"*%d\r\n" % len(message) + b"".join(map(self.encode, message))
        raise TypeError(f"RESP has no {type(message).__name__}")

    def _fail(self, error: ProtocolError) -> None:
        self._error, self.partial = error, False
        raise error

    def _raise_error(self) -> None:
        if self._error:
            raise self._error

    def _parse(self) -> Generator[list[bytes] | None, None, None]:
        """Yield each command, and None at the end of the bytes. It continues there, so no byte is parsed twice."""
        while True:
            self.partial = bool(self._buffer)
            if not self.partial:
                yield None
                continue
            line = yield from self._line()
            words, left = line.split(), self._max_bytes
            if line.startswith(b"*"):
                words = []
                for _ in range(_size(line, b"*", MAX_WORDS)):
                    size = _size((yield from self._line()), b"$", left)
                    words.append((yield from self._string(size)))
                    left -= size
            if words:  # Redis ignores an empty command
                yield words

    def _line(self) -> Generator[None, None, bytes]:
        searched = 0
        while (end := self._buffer.find(b"\n", searched, self._max_bytes + 2)) < 0:
            searched = len(self._buffer)
            if searched >= self._max_bytes + 2:
                raise FrameTooLarge(f"line of at least {searched - 1} bytes, the limit is {self._max_bytes}")
            yield None
        return self._take(end + 1).rstrip(b"\r\n")

    def _string(self, size: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < size + 2:
            yield None
        return self._take(size + 2)[:size]

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


def _size(line: bytes, sign: bytes, most: int) -> int:
    digits = line.removeprefix(sign)
    if digits == line or not digits.isdigit() or len(digits) > 10:
        raise InvalidHeader(f"expected {sign.decode()} and a length, got {line[:20]!r}")
    if int(digits) > most:
        raise FrameTooLarge(f"the length is {int(digits)}, the limit is {most}")
    return int(digits)


values: dict[bytes, bytes] = {}
timers: dict[bytes, gevent.Greenlet[..., None]] = {}  # of the keys that expire


def delete(key: bytes) -> bool:
    if timer := timers.pop(key, None):
        timer.kill(block=False)
    return values.pop(key, None) is not None


def expire(key: bytes) -> None:
    del values[key], timers[key]


def add(key: bytes, number: bytes) -> int | Error:
    terms = [values.get(key, b"0"), number]
    if all(INTEGER.fullmatch(term) for term in terms) and -(2**63) <= (total := sum(map(int, terms))) < 2**63:
        values[key] = b"%d" % total
        return total
    return Error("ERR value is not an integer or out of range")


def handle(command: list[bytes], conn: Connection) -> Any:
    name, *arguments = command
    match [name.upper(), *arguments]:
        case [b"PING"]:
            return "PONG"
        case [b"PING" | b"ECHO", text]:
            return text
        case [b"GET", key]:
            return values.get(key, NIL)
        case [b"SET", key, value]:
            delete(key)
            values[key] = value
            return "OK"
        case [b"SET", key, value, b"EX" | b"ex", seconds]:
            if not seconds.isdigit() or not 0 < int(seconds) < 10**9:
                return Error("ERR invalid expire time in 'set' command")
            delete(key)
            values[key] = value
            timers[key] = gevent.spawn_later(int(seconds), expire, key)
            return "OK"
        case [b"DEL", _, *_]:
            return sum(map(delete, arguments))
        case [b"INCR", key]:
            return add(key, b"1")
        case [b"INCRBY", key, number]:
            return add(key, number)
        case [b"SET", _, _, *_]:
            return Error("ERR syntax error")
        case [b"PING" | b"ECHO" | b"GET" | b"SET" | b"DEL" | b"INCR" | b"INCRBY", *_]:
            return Error(f"ERR wrong number of arguments for '{name.decode().lower()}' command")
    return Error(f"ERR unknown command {name[:60]!r}")


def failed(fault: Fault, conn: Connection) -> Error:
    return Error(f"ERR Protocol error: {fault}" if isinstance(fault, ProtocolError) else "ERR internal error")


app = Service(handle, Resp, on_error=failed, probe=[b"PING"])
