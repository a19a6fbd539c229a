"""Samples from a server's own machine: given to the runs that connect, and taken on the clock of the run.

    sampler -> run   {"samples": 1}, then {"sample": {...}} each; {"pong": n, "time_s": its clock}; {"end": why}
    run -> sampler   {"ping": n}

Two machines have two monotonic clocks, which began at different times and do not run quite alike. A run asks the
sampler for the time once a second, and believes the quickest answer of the last minute: it is wrong by no more than
half of what the answer took to come.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from loadtests.sampling.wakeup import Wakeup

__all__ = ["Broadcast", "ClockOffset", "Feed", "FeedLost"]

VERSION = 1
MAX_READERS = 16
# What may wait for one reader: minutes of samples. Who takes nothing for so long is given up.
MAX_WAITING_BYTES = 1 << 20
MAX_PING_BYTES = 1024
MAX_LINE_BYTES = 1 << 22
FIRST_PINGS = 16
PING_INTERVAL_S = 1.0
OFFSET_WINDOW_S = 60.0
CONNECT_PATIENCE_S = 5.0
# Pings are answered once a second: a machine that says nothing for so long is gone.
SILENCE_S = 10.0


class FeedLost(Exception):
    """The samples of another machine cannot be had, or no longer; the text is one line for a person."""


@dataclass(frozen=True)
class _Asked:
    at_s: float
    took_s: float
    offset_s: float


@dataclass
class ClockOffset:
    """How far another clock is ahead of this one. Pure."""

    window_s: float = OFFSET_WINDOW_S
    _asked: deque[_Asked] = field(default_factory=deque)

    def add(self, sent_s: float, theirs_s: float, received_s: float) -> None:
        """An answer: when it was asked for and received on this clock, and what the other one said."""
        self._asked.append(_Asked(received_s, received_s - sent_s, theirs_s - (sent_s + received_s) / 2))
        while self._asked[0].at_s < received_s - self.window_s:
            self._asked.popleft()

    @property
    def is_known(self) -> bool:
        return bool(self._asked)

    @property
    def offset_s(self) -> float:
        return self._best.offset_s

    @property
    def uncertainty_s(self) -> float:
        """The offset is wrong by no more than this."""
        return self._best.took_s / 2

    @property
    def _best(self) -> _Asked:
        return min(self._asked, key=lambda each: each.took_s)


@dataclass
class _Reader:
    sock: socket.socket
    asked: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)


class Broadcast:
    """Gives samples to whoever connects. Never blocks. Closes: on leaving its `with`."""

    def __init__(self, address: tuple[str, int], wakeup: Wakeup) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server((address[0], address[1]), family=family)
        self._listener.setblocking(False)
        self._wakeup = wakeup
        self._readers: dict[socket.socket, _Reader] = {}
        wakeup.watch(self._listener, self._accept)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()[:2]
        return host, port

    def send(self, sample: Mapping[str, Any]) -> None:
        line = _line({"sample": sample})
        for reader in list(self._readers.values()):
            self._say(reader, line)

    def end(self, why: str) -> None:
        """Tell everybody that no sample will follow, and why."""
        for reader in list(self._readers.values()):
            self._say(reader, _line({"end": why}))

    def __enter__(self) -> Broadcast:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in list(self._readers.values()):
            self._drop(reader)
        self._wakeup.forget(self._listener)
        self._listener.close()

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it is gone already
            return
        if len(self._readers) >= MAX_READERS:
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = self._readers[sock] = _Reader(sock)
        self._wakeup.watch(sock, lambda events: self._serve(reader, events))
        self._say(reader, _line({"samples": VERSION}))

    def _serve(self, reader: _Reader, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write(reader)
        if events & selectors.EVENT_READ and reader.sock in self._readers:
            self._read(reader)

    def _read(self, reader: _Reader) -> None:
        try:
            data = reader.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        reader.asked += data
        *lines, rest = reader.asked.split(b"\n")
        reader.asked = rest
        if not data or len(rest) > MAX_PING_BYTES:
            self._drop(reader)
            return
        for line in lines:
            self._answer(reader, bytes(line))

    def _answer(self, reader: _Reader, line: bytes) -> None:
        try:
            number = json.loads(line)["ping"]
        except (ValueError, TypeError, KeyError):
            self._drop(reader)
            return
        self._say(reader, _line({"pong": number, "time_s": time.monotonic()}))

    def _say(self, reader: _Reader, line: bytes) -> None:
        if reader.sock not in self._readers:
            return
        reader.waiting += line
        self._write(reader)
        if len(reader.waiting) > MAX_WAITING_BYTES:
            self._drop(reader)

    def _write(self, reader: _Reader) -> None:
        try:
            del reader.waiting[: reader.sock.send(reader.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(reader)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if reader.waiting else 0)
        self._wakeup.watch(reader.sock, lambda events: self._serve(reader, events), events)

    def _drop(self, reader: _Reader) -> None:
        if self._readers.pop(reader.sock, None) is not None:
            self._wakeup.forget(reader.sock)
            reader.sock.close()


class Feed:
    """The samples that a Broadcast gives, as they come, on this machine's clock; FeedLost if they stop for no reason.

    Each has a "clock": how far the other one was ahead, and by how much that may be wrong. Iterating ends when the
    sampler says that it ends (why_ended), or a signal comes. Closes: on leaving its `with`.
    """

    def __init__(self, address: tuple[str, int], wakeup: Wakeup) -> None:
        self._shown = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        self._wakeup = wakeup
        self._received = bytearray()
        self._samples: deque[dict[str, Any]] = deque()
        self._pings: dict[int, float] = {}
        self._pinged = 0
        self._is_over = False
        self.clock = ClockOffset()
        self.why_ended: str | None = None
        try:
            self._sock = socket.create_connection(address, CONNECT_PATIENCE_S)
        except OSError as error:
            raise FeedLost(f"no sampler at {self._shown}: {error.strerror or error}") from None
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard_s = time.monotonic()

    def __enter__(self) -> Feed:
        self._wakeup.watch(self._sock, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wakeup.forget(self._sock)
        self._sock.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pings_at_s = 0.0
        while not self._is_over:
            now_s = time.monotonic()
            if now_s - self._heard_s > SILENCE_S:
                raise FeedLost(f"the sampler at {self._shown} has said nothing for {SILENCE_S:g} s")
            if now_s >= pings_at_s and not self._pings:
                self._ping()
                # One after the other, the first ones without a pause: two on their way at once would delay each other.
                pings_at_s = now_s + (0.0 if self._pinged < FIRST_PINGS else PING_INTERVAL_S)
            signals = self._wakeup.turn(now_s + PING_INTERVAL_S if self._pings else pings_at_s)
            if any(number != signal.SIGUSR1 for number in signals):
                return
            while self._samples and self.clock.is_known and (self._pinged >= FIRST_PINGS or self._is_over):
                yield self._on_this_clock(self._samples.popleft())

    def _on_this_clock(self, sample: dict[str, Any]) -> dict[str, Any]:
        sample["time_s"] -= self.clock.offset_s
        sample["clock"] = {"offset_s": self.clock.offset_s, "uncertainty_s": self.clock.uncertainty_s}
        return sample

    def _ping(self) -> None:
        self._pinged += 1
        self._pings[self._pinged] = time.monotonic()
        try:
            self._sock.sendall(_line({"ping": self._pinged}))
        except OSError as error:
            raise FeedLost(f"the sampler at {self._shown} is gone: {error.strerror or error}") from None

    def _hear(self, events: int) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except OSError:
            data = b""
        received_s = self._heard_s = time.monotonic()
        if not data:
            raise FeedLost(f"the sampler at {self._shown} is gone")
        self._received += data
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > MAX_LINE_BYTES:
            raise FeedLost(f"what is at {self._shown} is no sampler")
        for line in lines:
            self._take(bytes(line), received_s)

    def _take(self, line: bytes, received_s: float) -> None:
        try:
            said = json.loads(line)
            if "sample" in said:
                said["sample"]["time_s"] += 0.0
                self._samples.append(said["sample"])
            elif "pong" in said:
                self.clock.add(self._pings.pop(said["pong"]), float(said["time_s"]), received_s)
            elif "end" in said:
                self._is_over, self.why_ended = True, str(said["end"])
            elif said["samples"] != VERSION:
                raise FeedLost(f"the sampler at {self._shown} speaks version {said['samples']}, this one {VERSION}")
        except (ValueError, TypeError, KeyError):
            raise FeedLost(f"what is at {self._shown} is no sampler") from None


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
