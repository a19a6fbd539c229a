"""A chat over gserver.bus in a real server, and its members: who gets which line, in which order."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from pathlib import Path

from tests.helpers.processes import PATIENCE_S, GserverProcess, run_gserver

__all__ = ["APP", "Member", "chat_server", "counts", "join", "join_each"]

APP = """
import os
import gevent
from gserver import Lines, Service, bus, stream

heard = []
bus.listen("notes", heard.append)

def on_open(conn):
    bus.subscribe(conn, "room")

def on_message(line, conn):
    command, _, text = line.partition(b" ")
    if command == b"pid":
        return b"pid %d" % os.getpid()
    if command == b"heard":
        return b"pid %d" % len(heard)
    if command == b"note":
        bus.publish("notes", text)
    if command == b"say":
        bus.publish("room", text)
    elif command == b"burst":  # NAME COUNT SIZE
        name, count, size = text.split()
        for number in range(int(count)):
            bus.publish("room", (b"%s %d " % (name, number)).ljust(int(size), b"."))
        return b"done"
    elif command == b"hold":  # until the file exists; then publish its name
        while not os.path.exists(text):
            gevent.sleep(0.01)
        bus.publish("room", text)
    elif command == b"fork":
        pid = os.fork()
        if not pid:
            gevent.sleep(0)
            while True:
                os.read(os.pipe()[0], 1)
        return b"pid %d" % pid

app = Service(on_message, Lines, on_open=on_open)

@stream(codec=Lines)
def reader(conn):
    on_open(conn)
    for line in conn:
        reply = on_message(line, conn)
        if reply is not None:
            conn.send(reply)
"""


class Member:
    """A member of the chat, and the pid of its worker."""

    def __init__(self, server: GserverProcess) -> None:
        self._sock = server.connect()
        self._unread = b""
        self.lines: list[bytes] = []
        self.worker = int(self.ask(b"pid").split()[1])

    def send(self, line: bytes) -> None:
        self._sock.sendall(line + b"\n")

    def ask(self, line: bytes) -> bytes:
        """Send a line; return its reply. Lines of the room that come before are in `lines`."""
        self.send(line)
        while not (reply := self._read()).startswith((b"pid ", b"done")):
            self.lines.append(reply)
        return reply

    @property
    def heard(self) -> int:
        """How many notes the function of its worker has got."""
        return int(self.ask(b"heard").split()[1])

    def read(self) -> bytes:
        """Return the next line of the room; b"" at the end of the connection."""
        return self.lines.pop(0) if self.lines else self._read()

    def read_until(self, last: bytes) -> list[bytes]:
        """Return all lines of the room before `last`."""
        lines = []
        while (line := self.read()) != last:
            assert line, f"the connection ended before {last!r}"
            lines.append(line)
        return lines

    def _read(self) -> bytes:
        while b"\n" not in self._unread:
            more = self._sock.recv(1 << 20)
            if not more:
                return b""
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def read_all(self) -> list[bytes]:
        """Return what has arrived, up to the end of the connection or a pause; True if it has ended."""
        lines, self.lines = self.lines, []
        self._sock.settimeout(0.05)
        try:
            while line := self._read():
                lines.append(line)
        except (TimeoutError, ConnectionResetError):
            pass
        finally:
            self._sock.settimeout(PATIENCE_S)
        return lines

    @property
    def is_open(self) -> bool:
        self._sock.setblocking(False)
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._sock.settimeout(PATIENCE_S)

    def close(self) -> None:
        self._sock.close()


def chat_server(folder: Path, *arguments: str, workers: int = 2, app: str = "app") -> GserverProcess:
    (folder / "chat.py").write_text(APP)
    options = ("--reload-settle", "0", "--stats-socket", str(folder / "stats"), "--drain-spread", "0")
    return GserverProcess(folder, *options, *arguments, f"chat:{app}", workers=workers)


def join(server: GserverProcess, count: int) -> list[Member]:
    return [Member(server) for _ in range(count)]


def join_each(server: GserverProcess, count: int, workers: Iterable[int]) -> dict[int, list[Member]]:
    """Return so many members of each of these workers."""
    members: dict[int, list[Member]] = {worker: [] for worker in workers}
    surplus: list[Member] = []
    while any(len(each) < count for each in members.values()):
        member = Member(server)
        of_worker = members.get(member.worker, [])
        (of_worker if member.worker in members and len(of_worker) < count else surplus).append(member)
        assert len(surplus) < 200, "a worker gets no connections"
    for member in surplus:
        member.close()
    return members


def counts(folder: Path) -> dict[str, int]:
    """Return the counts of the bus, over all workers."""
    found = json.loads(run_gserver("--stats", str(folder / "stats"), cwd=folder).stdout)
    return dict(found["totals"]["bus"])
