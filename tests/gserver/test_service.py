"""Service and stream: what they keep of a declaration, and their defaults."""

from __future__ import annotations

from typing import Any

from gserver.codecs import Lines, Raw
from gserver.service import Service, StreamService, stream

CONN: Any = object()


def test_the_default_on_error_sends_no_reply() -> None:
    service = Service(lambda message, conn: message)

    assert service.on_error(RuntimeError("failed"), CONN) is None


def test_the_default_codec_is_raw() -> None:
    assert Service(lambda message, conn: message).codec is Raw


def test_hooks_are_kept() -> None:
    def on_open(conn: Any) -> None:
        return None

    def on_close(conn: Any, reason: Any) -> None:
        return None

    def on_drain(conn: Any) -> None:
        return None

    service = Service(lambda message, conn: message, on_open=on_open, on_close=on_close, on_drain=on_drain)
    assert (service.on_open, service.on_close, service.on_drain) == (on_open, on_close, on_drain)
    assert Service(lambda message, conn: message).on_open is None
    assert Service(lambda message, conn: message).on_drain is None


def test_stream_marks_a_function_bare_or_with_a_codec() -> None:
    @stream
    def plain(conn: Any) -> None:
        return None

    @stream(codec=Lines)
    def lines(conn: Any) -> None:
        return None

    assert (type(plain), plain.codec) == (StreamService, Raw)
    assert (type(lines), lines.codec) == (StreamService, Lines)
