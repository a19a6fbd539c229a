"""A real Redis for tests: on a unix socket, or on a port of 127.0.0.1 with TLS; killed and started again."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests.helpers.processes import wait_for

__all__ = ["RedisServer", "needs_redis"]

IS_THERE = shutil.which("redis-server") is not None and importlib.util.find_spec("redis") is not None
needs_redis = pytest.mark.skipif(not IS_THERE, reason="redis-server or redis-py is not installed")


class RedisServer:
    """A redis-server for use in `with`. It keeps nothing on disk.

    Args:
        folder: has its socket and its log.
        options: further options of redis-server.
        start: False: it is started by start().
    """

    def __init__(self, folder: Path, *options: str, start: bool = True) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self._options: Sequence[str] = options
        self._process: subprocess.Popen[bytes] | None = None
        if start:
            self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        wait_for(lambda: b"PONG" in self.command("ping") or b"NOAUTH" in self.command("ping"), "Redis answers")

    def command(self, *words: str | bytes) -> bytes:
        """Run redis-cli; return its output."""
        command = ["redis-cli", "-s", str(self.socket), *words]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).stdout

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
