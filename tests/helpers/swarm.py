"""A verifying swarm: clients that check every reply, and can say of each connection how it ended, and why.

It talks to LINE_APP: the server names its process on every new connection, then answers each line with "PID LINE". Long
connections ask without end; short ones ask once and close. Everything runs in one thread with its own event loop.
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
    """What the clients have seen."""

    connected: int = 0
    verified: int = 0
    turned_away: int = 0  # orderly end-of-file instead of a reply: the server never handled that message
    lost_with_worker: int = 0  # the connection ended because its worker was killed
    broken_off: int = 0  # ended before they were seen to be connected: the server may have accepted them
    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # what must not happen

    def fault(self, text: str) -> None:
        if len(self.faults) < MAX_EXAMPLES:
            self.faults.append(text)


class _Ended(Exception):
    """The connection is over: cleanly, or broken."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Swarm:
    """`long` clients that stay and ask, `short` ones that come and go; in `with`, they run.

    A worker is killed within killing(), so that what ends with it is not held against the server.
    """

    def __init__(
        self,
        address: tuple[str, int],
        long: int = 20,
        short: int = 4,
        pause_s: float = 0.005,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """tls: with which to connect to localhost; None: plainly."""
        self.tally = Tally()
        self._address = address
        self._tls = tls
        self._sizes = (long, short)
        self._pause_s = pause_s
        self._killed: set[int] = set()
        self._killed_by: list[float] = []  # when each of them had ended
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
        """Let every client finish its exchange, and close."""
        self._stopping = True
        self._thread.join(PATIENCE_S * 2)
        assert not self._thread.is_alive(), "the swarm did not end"

    @property
    def kills(self) -> int:
        """How many workers were killed under it."""
        return len(self._killed_by)

    @contextlib.contextmanager
    def killing(self, pid: int) -> Iterator[None]:
        """Kill the worker, and leave once it has ended: until then it may accept connections."""
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
        """Connect again and again, until told to stop."""
        asked = 0
        while not self._stopping:
            connection = _Connection(self._address, self._tls)
            try:
                await connection.open()
                connection.is_opening = False
                self.tally.connected += 1
                await connection.greeted()
                done = 0
                while not self._stopping and (exchanges is None or done < exchanges):
                    asked += 1
                    done += 1
                    await connection.exchange(b"%d-%d" % (number, asked))
                    self.tally.verified += 1
                    await asyncio.sleep(self._pause_s)
                self.tally.ended["by the client"] += 1
            except _Ended as end:
                self.tally.broken_off += connection.is_opening and end.how != "refused"
                self._judge(connection, end.how)
            finally:
                connection.close()

    def _judge(self, connection: _Connection, how: str) -> None:
        """Whose fault it was that a connection ended."""
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
            raise _Ended("no answer") from None
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
