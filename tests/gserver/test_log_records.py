"""Log records about one connection: the id in the message, the fields, and no cost for a level that is not logged."""

from __future__ import annotations

import logging

import pytest

from gserver.log_records import fields_of, log_about, title_of

log = logging.getLogger("gserver.test")


class Conn:
    def __init__(self) -> None:
        self.formatted = 0

    def __str__(self) -> str:
        self.formatted += 1
        return "192.0.2.7:40312"

    @property
    def id(self) -> str:
        return "4712-1893"


@pytest.fixture
def conn() -> Conn:
    return Conn()


def test_the_message_names_the_connection_and_the_record_has_its_fields(
    conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    log_about(conn, log, logging.ERROR, "%(what)s failed for %(conn)s", what="handler", exc_info=ValueError("wrong"))

    (record,) = caplog.records
    assert record.getMessage() == "handler failed for 192.0.2.7:40312 (4712-1893)"
    assert (vars(record)["connection"], vars(record)["peer"]) == ("4712-1893", "192.0.2.7:40312")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    assert record.funcName == "test_the_message_names_the_connection_and_the_record_has_its_fields"


def test_a_level_that_is_not_logged_formats_nothing(conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gserver.test"):
        log_about(conn, log, logging.DEBUG, "accepted %(conn)s")

    assert (caplog.records, conn.formatted) == ([], 0)


def test_values_are_formatted_as_they_are(conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    """A percent sign in a value is no placeholder."""
    log_about(conn, log, logging.WARNING, "%(conn)s: %(error)s", error="100 %(conn)s %d")

    assert caplog.records[0].getMessage() == "192.0.2.7:40312 (4712-1893): 100 %(conn)s %d"


def test_the_title_and_the_fields(conn: Conn) -> None:
    assert title_of(conn) == "192.0.2.7:40312 (4712-1893)"
    assert fields_of(conn) == {"connection": "4712-1893", "peer": "192.0.2.7:40312"}
