from collections import deque
from collections.abc import Callable
from typing import Any

from gserver.connection.connection import Connection

RECEIVE_BYTES: int
HIGH_WATER: int

class ConnectionFields:
    sock: Any
    codec: Any
    state: Any
    close_reason: Any
    runner: Any
    outbox: Any
    turn_replies: Any
    context: Any
    received_bytes: int
    sent_bytes: int
    messages: int
    number: int
    opened_at: float
    active_at: float
    received_at: float
    fd: int
    is_sealed: bool
    def receive(self, max_bytes: int, /) -> bytes | None: ...
    def push(self, data: bytes, /) -> None: ...

class CompiledLoop:
    now: float
    most_idle: int
    def bind(
        self,
        on_message: Any,
        cells: Any,
        counter: int,
        timing: tuple[int, int, int, int],
        raw: type,
        json_lines: type,
        encode_json: Any,
        malformed: type,
        killed: type,
        is_open: object,
        /,
    ) -> None: ...
    def serve(self, conn: Connection, /) -> None: ...
    def dispatch(
        self,
        ready: deque[Connection],
        idle: list[Any],
        make_runner: Callable[[], Any],
        handler_blocks: Callable[[Any, Connection], None],
        /,
    ) -> None: ...
    def serve_parking(
        self, ready: deque[Connection], idle: list[Any], runner: Any, park: Callable[[], object], /
    ) -> Connection | None: ...
