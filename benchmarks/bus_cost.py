"""Measure the server's CPU time for a delivery by bus.publish(), and by conn.send_nowait() in a loop over the members.

    python -m benchmarks.bus_cost [--members 10000] [--workers 2] [--rounds 7] [--messages 20] [--redis URL]

The members of a chat are connected to the workers of one gserver. In each round, in a random order, every message is
sent in both ways: once it is published by a member of one worker, and once a member of each worker has its own worker
send it to a list of connections. A message begins when all members have the one before. CPU time is that of all
workers, from the kernel's scheduler (/proc/PID/schedstat). Other load on the host changes the time, but hardly the CPU
time for a delivery; both ways meet the same load.
"""

from __future__ import annotations

import argparse
import random
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

SERVICE = """
import os
from gserver import Lines, Service, bus

members = []

def on_open(conn):
    members.append(conn)
    bus.subscribe(conn, "room")

def on_message(line, conn):
    if line == b"pid":
        return b"%d" % os.getpid()
    if line[:4] == b"bus ":
        bus.publish("room", line)
    else:
        for member in members:
            member.send_nowait(line)

app = Service(on_message, Lines, on_open=on_open)
"""
WAYS = {"conn.send_nowait() in a loop": b"hand", "bus.publish()": b"bus "}
PATIENCE_S = 60.0
TEXT = b"." * 60


class Chat:
    """A server, and the sockets of its members."""

    def __init__(self, folder: Path, members: int, workers: int, options: Sequence[str]) -> None:
        (folder / "chat.py").write_text(SERVICE)
        self._log = folder / "log"
        command = [sys.executable, "-m", "gserver", "-b", "127.0.0.1:0", "-w", str(workers), *options]
        command += ["--worker-connections", str(members + 10), "--idle-timeout", "0", "--first-byte-timeout", "0"]
        command += ["--block-warning", "0", "chat:app"]
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self._sockets: list[socket.socket] = []
        self._poll = select.epoll()
        self._by_number: dict[int, socket.socket] = {}
        try:
            self._connect(members, workers)
        except BaseException:
            self.close()
            raise

    def _connect(self, members: int, workers: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while (text := self._log.read_text()).count("Worker ready") < workers:
            if self._server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server does not start:\n{text}")
            time.sleep(0.05)
        found = re.search(r"Listening at: 127.0.0.1:(\d+)", text)
        assert found
        self._speakers: dict[int, socket.socket] = {}  # by worker: one of its members
        self.members_of: dict[int, int] = {}
        for _ in range(members):
            sock = socket.create_connection(("127.0.0.1", int(found[1])), PATIENCE_S)
            self._sockets.append(sock)
            sock.sendall(b"pid\n")
            pid = int(sock.recv(100))
            self._speakers.setdefault(pid, sock)
            self.members_of[pid] = self.members_of.get(pid, 0) + 1
            sock.setblocking(False)
            self._poll.register(sock.fileno(), select.EPOLLIN)
            self._by_number[sock.fileno()] = sock

    def cpu_ns(self) -> int:
        """Return the CPU time of all workers."""
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self.members_of)

    def measure(self, way: bytes, messages: int) -> float:
        """Send messages to all members; return the workers' CPU time for a delivery, in microseconds."""
        before = self.cpu_ns()
        for number in range(messages):
            line = way + b"%08d" % number + TEXT + b"\n"
            speakers = list(self._speakers.values())
            for speaker in speakers if way == b"hand" else random.sample(speakers, 1):
                speaker.sendall(line)
            self._receive(len(line) * len(self._sockets))
        return (self.cpu_ns() - before) / 1000 / (messages * len(self._sockets))

    def _receive(self, missing: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while missing:
            for number, _ in self._poll.poll(1.0):
                missing -= len(self._by_number[number].recv(65536))
            if time.monotonic() > until:
                raise RuntimeError(f"{missing} bytes were not delivered")

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._poll.close()
        self._server.terminate()
        self._server.wait(PATIENCE_S)


def main(argv: Sequence[str]) -> int:
    """Measure both ways in turn, and print the cost of a delivery for each, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bus_cost", description="Measure the cost of the bus.")
    parser.add_argument("--members", type=int, default=10_000, metavar="N", help="(default 10000)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="(default 2)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default 7)")
    parser.add_argument("--messages", type=int, default=20, metavar="N", help="of each way in a round (default 20)")
    parser.add_argument("--redis", metavar="URL", help="use this Redis (default: the links of the workers)")
    arguments = parser.parse_args(argv)
    measured: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        options = [] if arguments.redis is None else ["--bus", arguments.redis]
        chat = Chat(Path(folder), arguments.members, arguments.workers, options)
        try:
            print("members of each worker:", *chat.members_of.values(), file=sys.stderr)
            for way in WAYS.values():
                chat.measure(way, 2)
            for number in range(1, arguments.rounds + 1):
                for name in random.sample(list(WAYS), len(WAYS)):
                    measured[name].append(chat.measure(WAYS[name], arguments.messages))
                    print(f"round {number}: {name}: {measured[name][-1]:.2f} us", file=sys.stderr)
        finally:
            chat.close()
    _show(measured)
    return 0


def _show(measured: dict[str, list[float]]) -> None:
    by_hand, by_bus = measured.values()
    for name, values in measured.items():
        middle = statistics.median(values)
        print(f"{name}: {middle:.2f} us of CPU time a delivery ({min(values):.2f} to {max(values):.2f})")
    found = [bus / hand for bus, hand in zip(by_bus, by_hand, strict=True)]
    print(f"ratio within a round: {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
