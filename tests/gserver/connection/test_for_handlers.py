"""dir(conn) shows what a handler may use, and all of it is documented."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from gserver.connection.connection import FOR_HANDLERS, Connection
from gserver.connection.stream_connection import StreamConnection
from gserver.service import Service, stream
from gserver.tls.tls_connection import TlsConnection, TlsStreamConnection
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

STREAM_ONLY = {"peer_finished", "read_exactly", "recv"}


def test_dir_shows_the_names_for_handlers(serving: Serving) -> None:
    shown: list[list[str]] = []

    @stream
    def handle(conn: StreamConnection) -> None:
        shown.append(dir(conn))

    services: list[Any] = [Service(lambda data, conn: shown.append(dir(conn))), handle]
    for service in services:
        serving.connect(serving.start(service)).send(b"a")
    wait_until(lambda: len(shown) == 2)

    assert sorted(shown, key=len) == [sorted(FOR_HANDLERS), sorted([*FOR_HANDLERS, *STREAM_ONLY])]


@pytest.mark.parametrize("kind", [Connection, StreamConnection, TlsConnection, TlsStreamConnection])
def test_every_name_exists_and_is_documented(kind: type[Connection]) -> None:
    attributes = set(re.findall(r"^    (\w+): ", inspect.getdoc(Connection) or "", re.MULTILINE))
    names = {*FOR_HANDLERS, *(STREAM_ONLY if issubclass(kind, StreamConnection) else ())}

    undocumented = {
        name for name in names - attributes if not (hasattr(kind, name) and (getattr(kind, name).__doc__ or "").strip())
    }
    assert undocumented == set()
