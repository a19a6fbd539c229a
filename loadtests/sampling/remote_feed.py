"""Sends samples from a server's machine to the runs that connect, which convert them to their own clock.

    sampler -> run   {"samples": 1}, then {"sample": {...}} each; {"pong": n, "time_s": its clock}; {"end": why}
    run -> sampler   {"ping": n}

A run pings the sampler once a second for its time, and uses the quickest reply of the last minute: see clock_offset.py.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from loadtests.recording.clock_offset import ClockOffset, Reading
from loadtests.sampling.wakeup import Wakeup
from loadtests.units import NS_IN_S

__all__ = ["Broadcast", "Feed", "FeedLost"]

VERSION = 1
MAX_READERS = 16
# How much may wait to be sent to one reader, which is minutes of samples; beyond that the reader is disconnected.
MAX_WAITING_BYTES = 1 << 20
MAX_PING_BYTES = 1024
MAX_LINE_BYTES = 1 << 22
FIRST_PINGS = 16
PING_INTERVAL_S = 1.0
OFFSET_WINDOW_S = 60
CONNECT_TIMEOUT_S = 5.0
# Pings are answered once a second, so after this time without a message the sampler is lost.
SILENCE_S = 10.0
#: How long the end of the sampler may wait for its readers to close their connections.
LINGER_S = 1.0


class FeedLost(Exception):
    """The samples of another machine are not, or no longer, available; the text is one line for a person."""


@dataclass
class _Reader:
    sock: socket.socket
    received: bytearray = field(default_factory=bytearray)
    waiting: bytearray = field(default_factory=bytearray)


class Broadcast:
    """Sends samples to up to 16 readers that connect. Never blocks, except at its end.

    Its `with` closes the listener and the readers; it waits up to LINGER_S for them.

    Args:
        address: IP address and port to listen on; OSError if that is not possible.
        wakeup: calls it when a socket is ready.
    """

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
        """Send a sample to all readers."""
        line = _line({"sample": sample})
        for reader in list(self._readers.values()):
            self._send(reader, line)

    def end(self, why: str) -> None:
        """Send to all readers that no sample will follow, and why."""
        for reader in list(self._readers.values()):
            self._send(reader, _line({"end": why}))

    def __enter__(self) -> Broadcast:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        readers = list(self._readers.values())
        for reader in readers:
            self._wakeup.forget(reader.sock)
        _close_after_peers([reader.sock for reader in readers])
        self._readers.clear()
        self._wakeup.forget(self._listener)
        self._listener.close()

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # the client has disconnected already
            return
        if len(self._readers) >= MAX_READERS:
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = self._readers[sock] = _Reader(sock)
        self._wakeup.watch(sock, lambda events: self._serve(reader, events))
        self._send(reader, _line({"samples": VERSION}))

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
        reader.received += data
        *lines, rest = reader.received.split(b"\n")
        reader.received = rest
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
        self._send(reader, _line({"pong": number, "time_s": time.monotonic()}))

    def _send(self, reader: _Reader, line: bytes) -> None:
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
    """Iterates over the samples of a Broadcast as they arrive, with times of this machine's clock.

    Each sample has a "clock": the offset of the other clock, and its uncertainty. The iteration ends when the sampler
    sends its end, or at a signal. FeedLost: there is no sampler at the address, or the connection is lost. Its `with`
    closes the connection.

    Attributes:
        why_ended: the reason that the sampler sent at its end; None before that.
    """

    def __init__(self, address: tuple[str, int], wakeup: Wakeup) -> None:
        self._shown = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        self._wakeup = wakeup
        self._received = bytearray()
        self._samples: deque[dict[str, Any]] = deque()
        self._pings: dict[int, int] = {}  # number -> when it was sent, in ns
        self._pings_sent = 0
        self._is_over = False
        self._clock = ClockOffset(OFFSET_WINDOW_S * NS_IN_S, may_be_same_clock=False)
        self.why_ended: str | None = None
        try:
            self._sock = socket.create_connection(address, CONNECT_TIMEOUT_S)
        except OSError as error:
            raise FeedLost(f"no sampler at {self._shown}: {error.strerror or error}") from None
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received_s = time.monotonic()

    def __enter__(self) -> Feed:
        self._wakeup.watch(self._sock, self._receive)
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
            if now_s - self._received_s > SILENCE_S:
                raise FeedLost(f"the sampler at {self._shown} has sent nothing for {SILENCE_S:g} s")
            if now_s >= pings_at_s and not self._pings:
                self._ping()
                # One at a time, because two would delay each other; the first ones without a pause.
                pings_at_s = now_s + (0.0 if self._pings_sent < FIRST_PINGS else PING_INTERVAL_S)
            signals = self._wakeup.wait_once(now_s + PING_INTERVAL_S if self._pings else pings_at_s)
            if any(number != signal.SIGUSR1 for number in signals):
                return
            while self._samples and self._clock.readings and (self._pings_sent >= FIRST_PINGS or self._is_over):
                yield self._on_this_clock(self._samples.popleft())

    def _on_this_clock(self, sample: dict[str, Any]) -> dict[str, Any]:
        offset_s, uncertainty_s = self._clock.offset_ns / NS_IN_S, self._clock.uncertainty_ns / NS_IN_S
        sample["time_s"] -= offset_s
        sample["clock"] = {"offset_s": offset_s, "uncertainty_s": uncertainty_s}
        return sample

    def _ping(self) -> None:
        self._pings_sent += 1
        self._pings[self._pings_sent] = time.monotonic_ns()
        try:
            self._sock.sendall(_line({"ping": self._pings_sent}))
        except OSError as error:
            raise FeedLost(f"the sampler at {self._shown} is gone: {error.strerror or error}") from None

    def _receive(self, events: int) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except OSError:
            data = b""
        received_ns = time.monotonic_ns()
        self._received_s = received_ns / NS_IN_S
        if not data:
            raise FeedLost(f"the sampler at {self._shown} is gone")
        self._received += data
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > MAX_LINE_BYTES:
            raise FeedLost(f"the program at {self._shown} is no sampler")
        for line in lines:
            self._handle(bytes(line), received_ns)

    def _handle(self, line: bytes, received_ns: int) -> None:
        try:
            message = json.loads(line)
            if "sample" in message:
                message["sample"]["time_s"] += 0.0  # TypeError if it is no number
                self._samples.append(message["sample"])
            elif "pong" in message:
                other_ns = int(float(message["time_s"]) * NS_IN_S)
                self._clock.add(Reading(self._pings.pop(message["pong"]), other_ns, received_ns))
            elif "end" in message:
                self._is_over, self.why_ended = True, str(message["end"])
            elif message["samples"] != VERSION:
                raise FeedLost(f"the sampler at {self._shown} has version {message['samples']}, this one has {VERSION}")
        except (ValueError, TypeError, KeyError, OverflowError):
            raise FeedLost(f"the program at {self._shown} is no sampler") from None


def _close_after_peers(socks: Sequence[socket.socket]) -> None:
    """Close connections after their peers have, or after LINGER_S.

    A close with an unread ping would reset the connection, and a peer could lose what was sent last: the end.
    """
    until_s = time.monotonic() + LINGER_S
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    for sock in socks:
        with contextlib.suppress(OSError):  # TimeoutError too
            while (left_s := until_s - time.monotonic()) > 0:
                sock.settimeout(left_s)
                if not sock.recv(4096):
                    break
        sock.close()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
