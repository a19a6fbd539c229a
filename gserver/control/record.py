"""gserverctl record: writes the transcript of connections to a file, until it ends or is interrupted.

The file belongs to the user alone (mode 600), because it holds what the connections sent. Every connection in it has an
end, also if the worker or the server has ended without one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, BinaryIO

from gserver.command_parser import complain
from gserver.control.client import ControlClient, Unreachable
from gserver.control.protocol import Problem
from gserver.errors import ConfigError
from gserver.transcript import END_LOST, IN, OUT, encode_row, event_row

__all__ = ["STANDARD_OUTPUT", "Output", "record"]

STANDARD_OUTPUT = "-"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NO_MASK = "the transcript holds everything that is sent, secrets too: the server has no setting record_mask"


class Output:
    """Where a transcript goes: a file, which must not exist, or standard output.

    Args:
        path: of the file; "-" is standard output.
        replaces: whether the file may exist.

    ConfigError if the file exists, cannot be made or cannot be written.
    """

    def __init__(self, path: str, replaces: bool) -> None:
        self.name = "standard output" if path == STANDARD_OUTPUT else path
        self._path, self._replaces = path, replaces
        self._file: BinaryIO | None = None
        if path != STANDARD_OUTPUT and not replaces and os.path.lexists(path):
            raise ConfigError(f"{path} exists: choose another file, or replace it with --force")

    def open(self) -> None:
        try:
            self._file = self._opened()
        except OSError as error:
            raise self._failed(error) from None

    def _opened(self) -> BinaryIO:
        if self._path == STANDARD_OUTPUT:
            sys.stdout.flush()
            return os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if self._replaces else os.O_EXCL)
        descriptor = os.open(self._path, flags, 0o600)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # one that is replaced may be open to others
            os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "wb", buffering=0)

    def write(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None
        rest = memoryview(encode_row(row))
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # of a network file system
                raise self._failed(error) from None

    def _failed(self, error: OSError) -> ConfigError:
        return ConfigError(f"cannot write to {self.name}: {error.strerror or error}")


class _Transcript:
    """Writes the rows of a server, counts what they hold, and ends the connections that have no end."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last_time: dict[str, float] = {}  # of each connection without an end
        self._has_warned = False
        self.counts = {"events": 0, "bytes": 0, "dropped_events": 0, "dropped_bytes": 0}
        self.error: str | None = None  # of the mask

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row. One about a lost worker becomes the ends of its connections."""
        if "lost" in row:
            text = f"worker {row['lost']}: {row.get('problem')}"
            self.lost(text, lambda connection: connection.startswith(f"{row['lost']}-"))
            return
        self._output.write(row)
        connection = str(row.get("connection"))
        if "format" in row:
            self._last_time[connection] = 0.0
            if not row.get("is_masked") and not self._has_warned:
                self._has_warned = True
                complain("gserverctl", _NO_MASK)
            return
        self._last_time[connection] = row.get("time", 0.0)
        if "end" in row:
            del self._last_time[connection]
            self.error = row.get("error") or self.error
            return
        self.counts["events"] += 1
        self.counts["bytes"] += _size_of(row)
        dropped = row.get("dropped")
        if dropped is not None:
            self.counts["dropped_events"] += dropped["events"]
            self.counts["dropped_bytes"] += dropped["in_bytes"] + dropped["out_bytes"]

    def lost(self, error: str, selects: Callable[[str], bool] = lambda connection: True) -> None:
        """Write an end for connections that have none: they may go on, but no more is known of them."""
        for connection in filter(selects, list(self._last_time)):
            self._output.write(event_row(self._last_time.pop(connection), connection, end=END_LOST, error=error))


def _size_of(row: Mapping[str, Any]) -> int:
    for direction in (IN, OUT):
        if direction in row:
            return len(str(row[direction]).encode())
        if f"{direction}_base64" in row:
            text = str(row[f"{direction}_base64"])
            return len(text) // 4 * 3 - text.count("=")
    return 0


def record(server: ControlClient, output: Output, limit: int, **arguments: Any) -> dict[str, Any]:
    """Record until the recording ends, or INT or TERM ends it; a second signal ends the command.

    Args:
        limit: the most bytes of data, of all workers.
        arguments: of the command `record`.

    Return its result, with counts of what was written. Raises Problem, Unreachable and ConfigError.
    """
    transcript, is_ended = _Transcript(output), False
    rows = server.request("record", limit_s=None, limit=limit, **arguments)
    try:
        try:
            number = next(rows)["recording"]
            output.open()
            complain("gserverctl", f"recording to {output.name}, until Ctrl-C")
            with _ended_by_signals(server.path, number):
                for row in rows:
                    transcript.add(row)
                    if transcript.counts["bytes"] >= limit and not is_ended:  # of several workers together
                        is_ended = True
                        _end(server.path, number)
        except Unreachable as error:
            transcript.lost(str(error))
            raise
    finally:
        output.close()
    return {**server.result, **transcript.counts, "error": transcript.error, "file": output.name}


@contextlib.contextmanager
def _ended_by_signals(path: str, number: int) -> Iterator[None]:
    """The first INT or TERM lets the server end the recording: what was recorded until then is still written."""

    def end(signal_number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        _end(path, number)

    before = {each: signal.signal(each, end) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(path: str, number: int) -> None:
    """By another connection: this one carries out one request after the other."""
    with contextlib.suppress(Problem, Unreachable), ControlClient(path) as client:
        client.call("end_record", recording=number)
