"""The recordings of this worker, for the control socket: finds the connections, and returns the rows of transcripts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gevent

import gserver
from gserver.connection.connection import Connection, State
from gserver.control.selection import Selection
from gserver.service import Service, StreamService
from gserver.worker.inspection import PAUSE
from gserver.worker.recording import Mask, Recording
from gserver.worker.worker_server import WorkerServer

__all__ = ["KEEP_S", "Recorder"]

#: How long a recording is kept that nobody reads, in seconds: an operator may have stopped the output.
KEEP_S = 60.0
# After a drain: how long the arbiter may take to read the rest.
FLUSH_S = 1.0
# Connections that are looked at between two looks at the time slice.
LOOK_EVERY = 64

log = logging.getLogger("gserver.worker")

Servers = Callable[[], Iterable[tuple[str, WorkerServer]]]


class Recorder:
    """Answers the questions "record" and "end record".

    Args:
        servers: returns the servers of this worker, with the names of their listeners.
        served: the applications.
        texts: what each listener serves, such as "shop:app", by its name; for the transcript.
        mask: the setting record_mask.
    """

    def __init__(self, servers: Servers, served: Sequence[Any], texts: Mapping[str, str], mask: Mask | None) -> None:
        self._servers = servers
        self._served = served
        self._texts = texts
        self._mask = mask
        self._running: dict[int, Recording] = {}  # by the arbiter's number
        self._selects: dict[int, Callable[[Connection], bool]] = {}
        self.subjects: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Any]]] = {
            "record": self._record,
            "end record": self._end,
        }

    def watch(self, server: WorkerServer) -> None:
        """Be called for new connections of a server, while there is a recording."""
        server.on_opened = self._opened if self._running else None

    def finish(self) -> None:
        """All connections are closed: let the arbiter read what was recorded, for FLUSH_S at most."""
        running = list(self._running.values())
        for recording in running:
            recording.stop()
        gevent.wait([recording.done for recording in running], timeout=FLUSH_S)

    def _record(self, arguments: Mapping[str, Any]) -> Iterator[Any]:
        """Rows of a transcript, until the recording ends; the last one is a summary."""
        if not any(isinstance(each, Service | StreamService) for each in self._served):
            text = "the application is a function handle(socket, address), whose connections cannot be recorded"
            yield {"refused": text}
            return
        name, address = arguments.get("connection"), arguments.get("address", "")
        recording = Recording(
            self._mask, arguments.get("seconds"), arguments["limit"], self._facts, is_for_one=name is not None
        )
        selects = _by_address(address) if name is None else _by_name(name)
        number = arguments["recording"]
        self._running[number], self._selects[number] = recording, selects
        try:
            self._watch_all()
            awaited = None
            for found in self._found(selects):
                if found is None:
                    yield None
                elif found.state is State.HANDSHAKING:  # added when it is opened
                    awaited = found
                else:
                    recording.add(found)
            if name is not None and awaited is None and not recording.connections:
                yield {"refused": None}
                return
            for row in recording.rows():
                yield row
                is_gone = awaited is not None and awaited.state is State.CLOSED and not recording.connections
                if row is PAUSE and is_gone:
                    recording.stop()
        finally:
            del self._running[number], self._selects[number]
            self._watch_all()
            log.info("Recording %d has ended (pid: %d)", number, os.getpid())
        yield {"ended": recording.ended, "connections": recording.connections, "skipped": recording.skipped}

    def _end(self, arguments: Mapping[str, Any]) -> Iterator[Any]:
        recording = self._running.get(arguments["recording"])
        if recording is not None:
            recording.stop()
        return iter(())

    def _found(self, selects: Callable[[Connection], bool]) -> Iterator[Connection | None]:
        """The connections that there are; None where others may run."""
        for _, server in list(self._servers()):
            for count, conn in enumerate(server.connections):
                if not count % LOOK_EVERY:
                    yield None
                if conn.state is not State.CLOSED and not conn.is_probe and selects(conn):
                    yield conn

    def _watch_all(self) -> None:
        for _, server in self._servers():
            self.watch(server)

    def _opened(self, conn: Connection) -> None:
        for number, recording in self._running.items():
            if not conn.is_probe and self._selects[number](conn):
                recording.add(conn)

    def _facts(self, conn: Connection) -> dict[str, Any]:
        return {
            "server": f"gserver {gserver.__version__}",
            "app": self._texts.get(conn.listener),
            "listener": conn.listener,
        }


def _by_name(name: str) -> Callable[[Connection], bool]:
    """A connection by its id."""
    pid, _, count = name.partition("-")
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return lambda conn: False
    return lambda conn: conn.id == name


def _by_address(address: str) -> Callable[[Connection], bool]:
    selection = Selection.parse(f"addr={address}")
    return lambda conn: selection.selects({"address": conn.peer[0] if isinstance(conn.peer, tuple) else None})
