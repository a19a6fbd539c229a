"""Clients that check every reply and record how each connection ended.

They talk to LINE_APP: the server sends its pid on each new connection, and then replies to each line with "PID LINE".
Long connections make exchanges without end, short ones make one and close. All clients run in one thread with its own
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

__all__ = ["LINE_APP", "Swarm"]

LINE_APP = """
import os
from gserver import Lines, Service

def greet(conn):
    conn.send(b"%d" % os.getpid())

def answer(line, conn):
    return b"%d %s" % (os.getpid(), line)

app = Service(answer, Lines, on_open=greet, probe=b"probe")
"""

PATIENCE_S = 60.0
MAX_EXAMPLES = 10


@dataclass
class Tally:
    """The counts of all clients."""

    connected: int = 0
    verified: int = 0
    turned_away: int = 0  # end of file instead of a reply: the server did not handle that message
    lost_with_worker: int = 0  # the connection ended because its worker was killed
    broken_off: int = 0  # ended while connecting: the server may have accepted them
    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # errors of the server

    def fault(self, text: str) -> None:
        if len(self.faults) < MAX_EXAMPLES:
            self.faults.append(text)


class _Ended(Exception):
    """A connection ended; `how` is the way."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Swarm:
    """`long` clients that stay connected and `short` ones that reconnect for each exchange; they run in the `with`.

    Kill workers within killing(), so that their connections are not counted as faults of the server.
    """

    def __init__(
        self,
        address: tuple[str, int],
        long: int = 20,
        short: int = 4,
        pause_s: float = 0.005,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """pause_s: time between the exchanges of a client. tls: context for TLS to localhost; None for plain TCP."""
        self.tally = Tally()
        self._address = address
        self._tls = tls
        self._sizes = (long, short)
        self._pause_s = pause_s
        self._killed: set[int] = set()
        self._killed_by: list[float] = []  # time at which each had ended
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="swarm")

    def __enter__(self) -> Swarm:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop: each client finishes its exchange and closes."""
        self._stopping = True
        self._thread.join(PATIENCE_S * 2)
        assert not self._thread.is_alive(), "the swarm did not end"

    @property
    def kills(self) -> int:
        """The number of workers that were killed."""
        return len(self._killed_by)

    @contextlib.contextmanager
    def killing(self, pid: int) -> Iterator[None]:
        """Kill the worker in this block, and leave it when the worker has ended: until then it may accept."""
        self._killed.add(pid)
        self._killed_by.append(math.inf)
        yield
        self._killed_by[-1] = time.monotonic()

    async def _run(self) -> None:
        long, short = self._sizes
        clients = [self._client(number, None) for number in range(long)]
        clients += [self._client(long + number, 1) for number in range(short)]
        await asyncio.gather(*clients)

    async def _client(self, number: int, exchanges: int | None) -> None:
        """Connect, make `exchanges` exchanges (None: no limit), and connect again, until stop()."""
        sent = 0
        while not self._stopping:
            connection = _Connection(self._address, self._tls)
            try:
                await connection.open()
                connection.is_opening = False
                self.tally.connected += 1
                await connection.greeted()
                done = 0
                while not self._stopping and (exchanges is None or done < exchanges):
                    sent += 1
                    done += 1
                    await connection.exchange(b"%d-%d" % (number, sent))
                    self.tally.verified += 1
                    await asyncio.sleep(self._pause_s)
                self.tally.ended["by the client"] += 1
            except _Ended as end:
                self.tally.broken_off += connection.is_opening and end.how != "refused"
                self._judge(connection, end.how)
            finally:
                connection.close()

    def _judge(self, connection: _Connection, how: str) -> None:
        """Count a connection that the server ended, by its cause."""
        its_worker_died = connection.pid in self._killed
        may_have_died = connection.pid is None and any(at >= connection.opened_at for at in self._killed_by)
        if its_worker_died or (may_have_died and how != "refused"):
            self.tally.lost_with_worker += 1
        elif how == "end of file":
            self.tally.turned_away += connection.is_waiting
        else:
            self.tally.fault(f"{how}, worker {connection.pid}, waiting {connection.is_waiting}")
        self.tally.ended[how] += 1


class _Connection:
    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.pid: int | None = None  # of the worker that serves it
        self.is_waiting = False  # for a reply
        self.is_opening = True
        self.opened_at = time.monotonic()
        self._address = address
        self._tls: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": "localhost"}
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        try:
            opening = asyncio.open_connection(*self._address, **self._tls)
            self._reader, self._writer = await asyncio.wait_for(opening, PATIENCE_S)
        except (TimeoutError, OSError) as error:
            raise _Ended("refused" if isinstance(error, ConnectionRefusedError) else repr(error)) from error

    async def greeted(self) -> None:
        self.pid = int(await self._line())

    async def exchange(self, text: bytes) -> None:
        assert self._writer is not None
        self.is_waiting = True
        self._writer.write(text + b"\n")
        line = await self._line()
        if line != b"%d %s" % (self.pid or 0, text):
            raise _Ended(f"a wrong reply to {text!r}: {line!r}")
        self.is_waiting = False

    async def _line(self) -> bytes:
        try:
            line = await asyncio.wait_for(self._reader.readline(), PATIENCE_S)
        except TimeoutError:
            raise _Ended("no reply") from None
        except OSError as error:
            raise _Ended("reset") from error
        if not line:
            raise _Ended("end of file")
        if not line.endswith(b"\n"):
            raise _Ended(f"half a reply: {line!r}")
        return line[:-1]

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
