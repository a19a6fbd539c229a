"""Requests over real sockets, complete, broken, slow and too many."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from gserver.limits.connection_limits import Limits
from gserver.limits.deadlines import Deadlines
from gserver.metrics.http_service import MAX_REQUEST_BYTES, OwnNotices, http_service
from gserver.server.tcp_server import TcpServer
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] == "/broken":
        raise RuntimeError("broken")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {environ['QUERY_STRING']}".encode()]


def start(serving: Serving, **options: Any) -> TcpServer:
    return serving.start(http_service(application), **options)


def answer_to(serving: Serving, server: TcpServer, *parts: bytes) -> bytes:
    peer = serving.connect(server)
    for part in parts:
        peer.send(part)
    return peer.read_to_end()


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /livez "),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"GET /livez "),
        (b"GET /livez?a=1 HTTP/1.1\n\n", b"GET /livez a=1"),
        (b"GET /livez HTTP/1.1\r\nConnection: keep-alive\r\n\r\nGET /again HTTP/1.1\r\n\r\n", b"GET /livez "),
        (b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"POST /x "),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"POST /x "),
    ],
)
def test_a_request_gets_one_answer_and_the_end_of_the_connection(
    serving: Serving, request_bytes: bytes, body: bytes
) -> None:
    answer = answer_to(serving, start(serving), request_bytes)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\n" + body)


def test_a_request_may_arrive_in_pieces(serving: Serving) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"

    answer = answer_to(serving, start(serving), *(bytes([byte]) for byte in request))

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/x\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n", b"400 Bad Request"),
        (b"GET /" + b"x" * MAX_REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", b"431 Request Header Fields Too Large"),
        (b"x" * 100_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_what_is_no_request_is_refused_and_printed_nowhere(
    serving: Serving, sent: bytes, status: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = answer_to(serving, start(serving), sent)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert capfd.readouterr() == ("", "")


def test_a_request_that_takes_too_long_is_answered_and_a_silent_client_is_closed(serving: Serving) -> None:
    server = start(serving, deadlines=Deadlines(first_byte_s=0.2, message_s=0.2))
    silent, slow = serving.connect(server), serving.connect(server)
    slow.send(b"GET / HTTP/1.1\r\n")

    assert slow.read_to_end().startswith(b"HTTP/1.1 408 Request Timeout")
    assert silent.read_to_end() == b""


def test_a_full_server_sheds_silent_clients_for_a_scraper(serving: Serving) -> None:
    server = start(serving, limits=Limits(worker_connections=3, full_action="shed"), notices=OwnNotices())
    for _ in range(10):
        serving.meet(server)

    # The longest idle ones are searched at most every 0.05 s.
    wait_until(lambda: answer_to(serving, server, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK"))
    wait_until(lambda: server.counters.open <= 3)


def test_an_address_has_only_some_places(serving: Serving) -> None:
    server = start(serving, limits=Limits(worker_connections=9, max_connections_per_ip=2, ip_action="close"))
    kept = [serving.connect(server, host="127.0.0.2") for _ in range(4)]
    for peer in kept:
        peer.send(b"GET / HTTP/1.1\r\n")

    assert answer_to(serving, server, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
    wait_until(lambda: server.counters.open == 2)


def test_log_lines_about_clients_name_the_metrics(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    server = start(serving, limits=Limits(worker_connections=1, full_action="shed"), notices=OwnNotices())
    serving.meet(server)
    serving.meet(server)

    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("Metrics: the server is full: it holds 1 connections: 1 idle closed to make room")


def test_an_exception_of_the_application_is_an_answer(serving: Serving, capfd: pytest.CaptureFixture[str]) -> None:
    assert answer_to(serving, start(serving), b"GET /broken HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    assert "RuntimeError" in capfd.readouterr().err  # by gevent: the routes catch and log everything before


def test_the_unstarted_wsgi_server_has_no_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        assert http_service(application).on_error is not None
