"""A server that uses given amounts of CPU time and memory: `python -m tests.helpers.costly`, or Costly in a test.

It reads commands as lines of JSON on standard input, and replies to each with a line {"cpu_s": ..}: the CPU time that
it and its waited-for children have used so far, from getrusage(2). It listens on 127.0.0.1, at the port in its first
line. Each connection allocates as many bytes as the last `holds` command set, and then gets a byte.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Costly"]

PAGE = 4096


class Costly:
    """The server as a child process. Leaving the `with` kills it and all processes that it started."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.helpers.costly"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.port: int = self.done()["port"]
        self._clients: list[socket.socket] = []

    def __enter__(self) -> Costly:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def begin(self, what: str, **arguments: Any) -> None:
        """Send a command; done() returns the reply."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, arguments]) + "\n")
        self.process.stdin.flush()

    def done(self) -> dict[str, Any]:
        """Wait for a reply and return it."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        self.begin(what, **arguments)
        return self.done()

    def connect_up_to(self, count: int) -> None:
        """Open connections until there are so many, and wait for the byte on each."""
        while len(self._clients) < count:
            client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            self._clients.append(client)
            assert client.recv(1) == b"k"


def burn(seconds: float) -> None:
    """Use so many seconds of CPU time in this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def touched(size: int) -> bytearray:
    """Return resident memory: each page has been written."""
    return bytearray(os.urandom(PAGE) * (size // PAGE) + bytes(size % PAGE))


def forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def standing(work: Callable[[], object]) -> None:
    """Fork a child that does its work and then stays; return when the work is done."""
    readable, writable = os.pipe()

    def worker() -> None:
        work()
        os.write(writable, b"k")
        signal.pause()

    forked(worker)
    os.read(readable, 1)
    os.close(readable)
    os.close(writable)


class Server:
    """The server; each command is one of its methods."""

    def __init__(self) -> None:
        self.hold = 0
        self.kept: list[Any] = []
        self.connections: list[Any] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            self.connections.append((connection, touched(self.hold)))
            connection.send(b"k")

    # CPU time

    def burn(self, messages: int, seconds: float) -> None:
        for _ in range(messages):
            burn(seconds)

    def threads(self, count: int, seconds: float) -> None:
        """Run threads that each use so much CPU time and end."""
        threads = [threading.Thread(target=burn, args=(seconds,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def forks(self, count: int, seconds: float) -> None:
        """Fork children one after another, and wait for each."""
        for _ in range(count):
            os.waitpid(forked(lambda: burn(seconds)), 0)

    def families(self, count: int, seconds: float) -> None:
        """Fork children that each fork a child and wait for it."""

        def parent() -> None:
            os.waitpid(forked(lambda: burn(seconds)), 0)
            burn(seconds)

        for pid in [forked(parent) for _ in range(count)]:
            os.waitpid(pid, 0)

    def executes(self, count: int, seconds: float) -> None:
        """Run another program several times, one after another."""
        program = f"import time\nuntil = time.process_time() + {seconds}\nwhile time.process_time() < until: pass"
        for _ in range(count):
            subprocess.run([sys.executable, "-S", "-c", program], check=True)

    def not_waited_for(self, seconds: float) -> None:
        """Leave a zombie: a child that has ended and is not waited for."""
        os.waitid(os.P_PID, forked(lambda: burn(seconds)), os.WEXITED | os.WNOWAIT)

    def ignoring(self, count: int, seconds: float) -> None:
        """Fork children while SIGCHLD is ignored, so that the kernel keeps no account of their CPU time."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for pid in [forked(lambda: burn(seconds)) for _ in range(count)]:
            with contextlib.suppress(ChildProcessError):  # waitpid returns when the child has ended
                os.waitpid(pid, 0)

    def orphan(self, seconds: float) -> None:
        """Fork twice: the child ends at once, and its child uses the CPU time as an orphan."""
        readable, writable = os.pipe()

        def child() -> None:
            forked(lambda: burn(seconds))  # the grandchild keeps the pipe open until it ends

        os.waitpid(forked(child), 0)
        os.close(writable)
        os.read(readable, 1)
        os.close(readable)

    # Memory

    def holds(self, size: int) -> None:
        """Let each connection from now on allocate so many bytes."""
        self.hold = size

    def leak(self, messages: int, size: int) -> None:
        self.kept += [touched(size) for _ in range(messages)]

    def workers(self, count: int, own: int) -> None:
        """Fork workers that share the memory kept so far; each writes to `own` bytes of it and so gets copies."""

        def work() -> None:
            self.kept[0][:own] = touched(own)

        for _ in range(count):
            standing(work)

    def segment(self, count: int, size: int) -> None:
        """Fork workers that all write to the same shared memory."""
        segment = mmap.mmap(-1, size)

        def work() -> None:
            for at in range(0, size, PAGE):
                segment[at] = 1

        for _ in range(count):
            standing(work)


def used_s() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def main() -> None:
    server = Server()
    print(json.dumps({"port": server.listener.getsockname()[1]}), flush=True)
    for line in sys.stdin:
        what, arguments = json.loads(line)
        getattr(server, what)(**arguments)
        print(json.dumps({"cpu_s": used_s()}), flush=True)


if __name__ == "__main__":
    main()
