"""What an operator sees of a connection: the rows of `gserverctl connections`, and what its handler is doing."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from types import FrameType
from typing import Any

from gserver.connection.connection import Connection, State, format_address
from gserver.connection.stream_connection import StreamConnection
from gserver.connection.tasks import greenlets_of

__all__ = ["details_of", "facts_of", "row_of"]

MAX_FRAMES = 50
MAX_NAME = 200
_NOT_USER_CODE = ("gserver", "gevent")
# As the kernel gives them, struct tcp_info of linux/tcp.h: offset in bytes of 32-bit numbers.
_TCP_INFO_BYTES = 104
_RTT, _RTT_VARIATION, _TOTAL_RETRANSMITS = 68, 72, 100


def facts_of(conn: Connection, listener: str, now: float) -> dict[str, Any]:
    """What connections are selected and sorted by, without the system calls and the stack of a row_of()."""
    handling_since = conn.handler_since
    return {
        "id": conn.id,
        "worker": os.getpid(),
        "peer": str(conn),
        "address": conn.peer[0] if isinstance(conn.peer, tuple) else None,
        "listener": listener,
        "tls": None if conn.tls is None else conn.tls.version,
        "state": _state_of(conn),
        "age_s": now - conn.opened_at,
        "idle_s": now - conn.active_at,
        "messages": conn.messages,
        "received_bytes": conn.received_bytes,
        "sent_bytes": conn.sent_bytes,
        "bytes": conn.received_bytes + conn.sent_bytes,
        "outbox_bytes": 0 if conn.outbox is None else conn.outbox.size,
        "handling_s": None if handling_since is None else now - handling_since,
        "tasks": 0 if conn.tasks is None else len(conn.tasks.running),
    }


def _state_of(conn: Connection) -> str:
    """One of gserver.control.selection.STATES."""
    if conn.state is State.HANDSHAKING:
        return "handshaking"
    if conn.state is not State.OPEN:
        return "draining"
    if isinstance(conn, StreamConnection):
        return "streaming"
    if conn.outbox is not None:
        return "sending"
    if conn.runner is not None or conn.tasks is not None:
        return "handling"
    if conn.is_paused:
        return "throttled"
    return "receiving" if conn.message_since is not None else "idle"


def row_of(conn: Connection, listener: str, now: float) -> dict[str, Any]:
    """The row of a listing: the facts, the proxy, and what the handler is doing."""
    return {**facts_of(conn, listener, now), "proxy": _proxy_of(conn), "handler": _place_of(conn)}


def details_of(conn: Connection, listener: str, now: float) -> dict[str, Any]:
    """The row, the stack of the handler, TLS in full, and what the kernel knows of the connection."""
    return {
        **row_of(conn, listener, now),
        "stack": [_described(frame) for frame in itertools.islice(_user_frames(conn), MAX_FRAMES)],
        "tls_session": None if conn.tls is None else _tls_of(conn.tls),
        "unread_bytes": conn.unread_bytes(),
        "kernel": _kernel_facts(conn),
    }


def _proxy_of(conn: Connection) -> str | None:
    """The address of the proxy that the connection came through."""
    if conn.proxy is None:
        return None
    try:
        return format_address(conn.sock.getpeername())
    except OSError:  # broken, and not noticed yet
        return None


def _place_of(conn: Connection) -> str | None:
    """The innermost line of user code that the handler, or a task, waits in, such as "fetch (app.py:17)"."""
    return next((_described(frame) for frame in _user_frames(conn)), None)


def _user_frames(conn: Connection) -> list[FrameType]:
    """The frames of the blocked handler, from the innermost, without those of gevent and gserver.

    If no handler waits in user code, those of one of the tasks that do.
    """
    return next((frames for each in greenlets_of(conn) if (frames := _user_frames_of(each.gr_frame))), [])


def _user_frames_of(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _NOT_USER_CODE:
            frames.append(frame)
        frame = frame.f_back
    return frames


def _described(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname:.{MAX_NAME}} ({os.path.basename(code.co_filename)}:{frame.f_lineno})"


def _tls_of(info: Any) -> dict[str, Any]:
    return {"version": info.version, "cipher": info.cipher, "alpn": info.alpn, "server_name": info.server_name}


def _kernel_facts(conn: Connection) -> dict[str, Any] | None:
    """Round trip and retransmissions of a TCP connection (TCP_INFO, tcp(7))."""
    if not isinstance(conn.peer, tuple):
        return None
    try:
        info = conn.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    rtt_us, variation_us, retransmits = (
        struct.unpack_from("=I", info, at)[0] for at in (_RTT, _RTT_VARIATION, _TOTAL_RETRANSMITS)
    )
    return {"rtt_s": rtt_us / 1e6, "rtt_variation_s": variation_us / 1e6, "retransmits": retransmits}
