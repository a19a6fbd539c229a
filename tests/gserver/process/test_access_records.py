"""The records of the access log: the line by access_log_format, and the fields."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from typing import Any

import pytest

from gserver.codecs import Raw
from gserver.config.settings import ACCESS_LOG_FORMAT
from gserver.config.validators import access_format
from gserver.connection.connection import Connection
from gserver.errors import CloseReason
from gserver.process.access_records import access_fields, access_line, access_record
from gserver.server.proxy_protocol import ProxyHeader
from gserver.tls.session import TlsInfo


def make_connection() -> Connection:
    class Sock:
        pass

    conn = Connection(Sock(), ("127.0.0.1", 5), Raw(), Sock())  # type: ignore[arg-type]
    conn.messages, conn.received_bytes, conn.sent_bytes = 2, 30, 40
    return conn


def test_a_line_of_the_access_log_has_the_values_of_the_format() -> None:
    line = access_line(ACCESS_LOG_FORMAT, make_connection(), CloseReason.PEER_EOF)

    assert re.fullmatch(r'127\.0\.0\.1:5 \[\d\d/\w{3}/\d{4}:[\d:]+ [+-]\d{4}\] "peer_eof" 2 30 40 \d+\.\d{6}', line)


def test_atoms_that_do_not_exist_are_a_dash() -> None:
    line = access_line("%(p)s %(nothing)s 100%%", make_connection(), CloseReason.DRAINED)

    assert line == f"{os.getpid()} - 100%"


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        ("h", r"127\.0\.0\.1:5"),
        ("t", r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"),
        ("r", "peer_eof"),
        ("M", "2"),
        ("I", "30"),
        ("O", "40"),
        ("L", r"\d+\.\d{6}"),
        pytest.param("p", str(os.getpid()), id="p"),  # an id that is the same in every process
        pytest.param("id", rf"{os.getpid()}-[1-9]\d*", id="id"),
        ("", "-"),
        ("nothing", "-"),
        ("__class__", "-"),
    ],
)
def test_every_atom_is_filled_in(atom: str, expected: str) -> None:
    assert re.fullmatch(expected, access_line(f"%({atom})s", make_connection(), CloseReason.PEER_EOF))


@pytest.mark.parametrize("reason", CloseReason)
def test_every_reason_has_its_name_in_the_access_log(reason: CloseReason) -> None:
    assert access_line("%(r)s", make_connection(), reason) == reason.value


@pytest.mark.parametrize("form", ["%(M)5d|%(O)-4s|%(p)d", "%(I)03d %(r).4s %(h)r %(nothing)5s"])
def test_every_format_that_is_accepted_can_be_formatted(form: str) -> None:
    assert "%" not in access_line(access_format(form), make_connection(), CloseReason.DRAINED)


FORGERIES = [
    "/tmp/a\nforged",
    b"\0a\nforged",
    "/tmp/a\rforged",
    '/a","reason":"forged',
    "/a\\",
    '/a" [1] "forged" 0 0 0 0',
]
FORGERIES += ["/a\u2028\x85\x0b", b"/\xff\xfe", "/\ud800"]


@pytest.mark.parametrize("path", FORGERIES, ids=ascii)
def test_a_client_cannot_write_fields_of_its_own_by_the_path_it_is_bound_to(path: str | bytes) -> None:
    conn = make_connection()
    conn.peer = path
    form = '{"peer":"%(h)s","reason":"%(r)s","messages":%(M)s}'
    fields = json.loads(access_line(form, conn, CloseReason.PEER_EOF), object_pairs_hook=list)
    line = access_line(ACCESS_LOG_FORMAT, conn, CloseReason.PEER_EOF)

    assert fields == [("peer", "unix:" + os.fsdecode(path)), ("reason", "peer_eof"), ("messages", 2)]
    assert re.fullmatch(r'unix:\S+ \[\d\d/\w{3}/\d{4}:[\d:]+ [+-]\d{4}\] "peer_eof" 2 30 40 \d+\.\d{6}', line)


@pytest.mark.parametrize("path", FORGERIES, ids=ascii)
def test_a_client_cannot_write_lines_of_its_own_by_the_path_it_is_bound_to(path: str | bytes) -> None:
    conn = make_connection()
    conn.peer = path

    assert len(access_line("%(h)s", conn, CloseReason.PEER_EOF).splitlines()) == 1


# Fields


def fields_of(conn: Connection) -> dict[str, Any]:
    return access_fields(conn, CloseReason.PEER_EOF, "127.0.0.1:3000")


def test_the_fields_have_the_types_of_their_values() -> None:
    conn = make_connection()
    conn.opened_at = time.monotonic() - 3.0
    fields = fields_of(conn)
    duration_s = fields.pop("duration_s")

    assert isinstance(duration_s, float)
    assert 3.0 <= duration_s < 60.0
    assert fields == {
        "id": conn.id,
        "peer": "127.0.0.1:5",
        "listener": "127.0.0.1:3000",
        "reason": "peer_eof",
        "messages": 2,
        "received_bytes": 30,
        "sent_bytes": 40,
        "tls": None,
    }


@pytest.mark.parametrize("sender", [("::1", 99, 0, 0), ""], ids=repr)
def test_the_address_of_the_proxy_is_a_field_if_there_was_a_header(sender: Any) -> None:
    conn = make_connection()
    header = ProxyHeader(2, "PROXY", ("192.0.2.1", 7), sender=sender)
    conn.identified(header, ("192.0.2.1", 7))
    fields = fields_of(conn)

    assert (fields["peer"], fields["proxy_peer"]) == ("192.0.2.1:7", "[::1]:99" if sender else "unix:")


def test_the_version_of_tls_is_a_field() -> None:
    conn = make_connection()
    type(conn).tls = TlsInfo("TLSv1.3", "x", None, None, None, None, False)
    try:
        assert fields_of(conn)["tls"] == "TLSv1.3"
    finally:
        type(conn).tls = None


def test_a_record_has_the_line_and_the_fields() -> None:
    conn = make_connection()
    logger = logging.getLogger("gserver.access")
    record = access_record(logger, "%(id)s %(r)s 100%% %(h)s", conn, CloseReason.DRAINED, "unix:/run/a")

    assert record.getMessage() == f"{conn.id} drained 100% 127.0.0.1:5"
    assert (record.levelno, record.name, record.process) == (logging.INFO, "gserver.access", os.getpid())
    assert vars(record)["listener"] == "unix:/run/a"
    assert set(fields_of(conn)) <= set(vars(record))
