"""A server that costs what it is told to: `python -m tests.helpers.costly`, or Costly in a test.

It takes commands as lines of JSON on its standard input, and answers each with a line: {"cpu_s": ..} is what it and its
children that were waited for used so far, by its own getrusage(2). It listens on 127.0.0.1, at the port in its first
line; each connection holds the bytes that `holds` names, and gets a byte once they are there.
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
    """The server, from a test; in `with`, it and all that it started have ended at the end."""

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
        """Send a command; done() has its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([what, arguments]) + "\n")
        self.process.stdin.flush()

    def done(self) -> dict[str, Any]:
        """Wait for an answer."""
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        self.begin(what, **arguments)
        return self.done()

    def connect_up_to(self, count: int) -> None:
        """So many connections, each of which the server has answered."""
        while len(self._clients) < count:
            client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            self._clients.append(client)
            assert client.recv(1) == b"k"


def burn(seconds: float) -> None:
    """CPU time of the thread that calls it."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def touched(size: int) -> bytearray:
    """Memory that is resident: each page was written to."""
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
    """A child that stays once it has done its work, which is waited for."""
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
    """The commands are its methods."""

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
        """Each ends when it has used that."""
        threads = [threading.Thread(target=burn, args=(seconds,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def forks(self, count: int, seconds: float) -> None:
        """One child after the other, each waited for."""
        for _ in range(count):
            os.waitpid(forked(lambda: burn(seconds)), 0)

    def families(self, count: int, seconds: float) -> None:
        """Children that have a child of their own, for which they wait."""

        def parent() -> None:
            os.waitpid(forked(lambda: burn(seconds)), 0)
            burn(seconds)

        for pid in [forked(parent) for _ in range(count)]:
            os.waitpid(pid, 0)

    def executes(self, count: int, seconds: float) -> None:
        """Another program, one after the other."""
        program = f"import time\nuntil = time.process_time() + {seconds}\nwhile time.process_time() < until: pass"
        for _ in range(count):
            subprocess.run([sys.executable, "-S", "-c", program], check=True)

    def not_waited_for(self, seconds: float) -> None:
        """A child that has ended, and stays until the server ends."""
        os.waitid(os.P_PID, forked(lambda: burn(seconds)), os.WEXITED | os.WNOWAIT)

    def ignoring(self, count: int, seconds: float) -> None:
        """Children that nobody waits for, because SIGCHLD is ignored."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for pid in [forked(lambda: burn(seconds)) for _ in range(count)]:
            with contextlib.suppress(ChildProcessError):  # it returns once the child has ended
                os.waitpid(pid, 0)

    def orphan(self, seconds: float) -> None:
        """A double fork: the child ends at once, and its own child goes on until it has used that."""
        readable, writable = os.pipe()

        def child() -> None:
            forked(lambda: burn(seconds))  # it has the pipe open until it ends

        os.waitpid(forked(child), 0)
        os.close(writable)
        os.read(readable, 1)
        os.close(readable)

    # Memory

    def holds(self, size: int) -> None:
        """From now on each connection does."""
        self.hold = size

    def leak(self, messages: int, size: int) -> None:
        self.kept += [touched(size) for _ in range(messages)]

    def workers(self, count: int, own: int) -> None:
        """Forked, with what the server has kept; each writes to so many bytes of it."""

        def work() -> None:
            self.kept[0][:own] = touched(own)

        for _ in range(count):
            standing(work)

    def segment(self, count: int, size: int) -> None:
        """Workers that all write to the same shared memory."""
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
