"""gserver behind HAProxy and nginx: balancing, health checks, the address of the client, SCGI."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from gserver import codecs
from gserver.arbiter.stats_socket import read_stats
from gserver.config.settings import declared
from gserver.connection.connection import format_address
from tests.helpers.peers import haproxy, need, nginx
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for

SETTINGS = {setting.name for setting in declared()}
PROXY_PROTOCOL = pytest.mark.skipif("proxy_protocol" not in SETTINGS, reason="there is no PROXY protocol")
TLS = pytest.mark.skipif("certfile" not in SETTINGS, reason="there is no TLS")

STREAM = "stream { server { listen {front}; proxy_pass 127.0.0.1:%d; proxy_protocol %s; } }"


def ask(address: tuple[str, int], lines: list[bytes], source: str = "127.0.0.1") -> list[bytes]:
    """Send each line and wait for its reply, on one connection; return the replies."""
    with socket.create_connection(address, PATIENCE_S, (source, 0)) as client, client.makefile("rb") as replies:
        heard = []
        for line in lines:
            client.sendall(line + b"\n")
            heard.append(replies.readline().removesuffix(b"\n"))
        client.shutdown(socket.SHUT_WR)
        assert replies.read() == b""
    return heard


def port_of(server: GserverProcess) -> int:
    return server.address[1]


# Behind HAProxy


@need("haproxy")
def test_fifty_clients_through_haproxy_get_their_own_replies(tmp_path: Path) -> None:
    with (
        GserverProcess(tmp_path, "echo", workers=2) as server,
        haproxy(tmp_path, f"listen echo\n bind {{front}}\n server one 127.0.0.1:{port_of(server)}\n") as proxy,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(socket.create_connection(proxy.address, PATIENCE_S)) for _ in range(50)]
        files = [stack.enter_context(client.makefile("rwb", 0)) for client in clients]
        for turn in range(10):
            for number, file in enumerate(files):
                file.write(b"%d of %d\n" % (turn, number))
            assert [file.readline() for file in files] == [b"%d of %d\n" % (turn, number) for number in range(50)]
        for client, file in zip(clients, files, strict=True):
            client.shutdown(socket.SHUT_WR)
            assert file.read() == b""


CHECKS = {
    "a connection": ("option tcp-check", "L4OK"),
    "a question": ("option tcp-check\n tcp-check send ping\\n\n tcp-check expect string ping", "L7OK"),
}


@need("haproxy")
@pytest.mark.parametrize("name", CHECKS)
def test_health_checks_succeed_and_are_no_errors(tmp_path: Path, name: str) -> None:
    check, status = CHECKS[name]
    text = f"listen echo\n bind {{front}}\n {check}\n server one 127.0.0.1:%d check inter 50ms\n"
    with GserverProcess(tmp_path, "echo") as server:
        with haproxy(tmp_path, text % port_of(server)) as proxy:
            wait_for(lambda: proxy.statistics()["one"]["check_status"] == status, "a check was made")
            one = proxy.statistics()["one"]

            assert (one["status"], one["chkfail"]) == ("UP", "0")
            assert ask(proxy.address, [b"between them"]) == [b"between them"]
        server.process.terminate()
        assert server.wait() == 0
        assert "errors 0" in server.log
        assert not re.search("ERROR|WARNING", server.log)


@need("haproxy")
def test_no_client_notices_the_stop_of_a_server_that_haproxy_drains(tmp_path: Path) -> None:
    """HAProxy drains it first, because the kernel resets a connection that arrives while a listener is closed."""
    text = "listen echo\n bind {front}\n server one 127.0.0.1:%d\n server two 127.0.0.1:%d\n"
    with (
        GserverProcess(tmp_path, "echo") as one,
        GserverProcess(tmp_path, "echo") as two,
        haproxy(tmp_path, text % (port_of(one), port_of(two))) as proxy,
    ):
        for number in range(60):
            if number == 20:
                proxy.request("set server echo/one state drain")
                one.process.terminate()
            assert ask(proxy.address, [b"%d" % number]) == [b"%d" % number]
        assert one.wait() == 0
        assert "messages 10, errors 0" in one.log


@need("haproxy")
def test_health_checks_detect_that_a_server_stops_and_starts_again(tmp_path: Path) -> None:
    text = "listen echo\n bind {front}\n server one unix@%s check inter 50ms\n" % (tmp_path / "socket")
    with haproxy(tmp_path, text) as proxy:
        for _ in range(2):
            with GserverProcess(tmp_path, "echo", bind="unix:socket"):
                wait_for(lambda: proxy.statistics()["one"]["status"] == "UP", "it is up")
                assert ask(proxy.address, [b"hello"]) == [b"hello"]
            wait_for(lambda: proxy.statistics()["one"]["status"] == "DOWN", "it is down")


# The address of the client

WHO = """
from gserver import Lines, Service
app = Service(lambda line, conn: str(conn).encode(), Lines)
"""
#: Two source addresses for each family, other than the proxy's; IPv6 has only one on a loopback interface.
CLIENTS = {"127.0.0.1": ("127.0.0.77", "127.0.0.78"), "::1": ("::1", "::1")}


def who(folder: Path, *arguments: str) -> GserverProcess:
    """Start a server that replies with the address of the client."""
    (folder / "app.py").write_text(WHO)
    return GserverProcess(folder, "app:app", "--proxy-allow-from", "127.0.0.1", *arguments)


def check_client_is_known(front: tuple[str, int]) -> None:
    """Check the address in two replies on each of two simultaneous connections."""
    one, other = (socket.create_connection(front, PATIENCE_S, (source, 0)) for source in CLIENTS[front[0]])
    with one, other, one.makefile("rwb", 0) as of_one, other.makefile("rwb", 0) as of_other:
        for _ in range(2):
            for client, file in ((one, of_one), (other, of_other)):
                file.write(b"who\n")
                assert file.readline().decode() == format_address(client.getsockname()) + "\n"


@need("haproxy")
@PROXY_PROTOCOL
@pytest.mark.parametrize(
    ("version", "option"),
    [
        *(("v1", "send-proxy"), ("auto", "send-proxy"), ("v2", "send-proxy-v2"), ("auto", "send-proxy-v2")),
        *(("v2", "send-proxy-v2-ssl"), ("v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id")),
    ],
)
@pytest.mark.parametrize("host", CLIENTS)
def test_haproxy_passes_the_address_of_the_client(tmp_path: Path, host: str, version: str, option: str) -> None:
    text = f"listen who\n bind {{front}}\n unique-id-format {'x' * 100}\n server one 127.0.0.1:%d {option}\n"
    with (
        who(tmp_path, "--proxy-protocol", version) as server,
        haproxy(tmp_path, text % port_of(server), host) as proxy,
    ):
        check_client_is_known(proxy.address)


@need("haproxy")
@PROXY_PROTOCOL
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_health_checks_send_a_proxy_header_too(tmp_path: Path, option: str) -> None:
    """In version 2 the command of a check is LOCAL: the connection is the proxy's own."""
    text = (
        "listen who\n bind {front}\n option tcp-check\n tcp-check send who\\n\n tcp-check expect string 127.0.0.1\n"
        " server one 127.0.0.1:%d check inter 50ms check-send-proxy " + option + "\n"
    )
    with who(tmp_path, "--proxy-protocol", "auto") as server, haproxy(tmp_path, text % port_of(server)) as proxy:
        wait_for(lambda: proxy.statistics()["one"]["check_status"] == "L7OK", "a check was answered")
        assert proxy.statistics()["one"]["chkfail"] == "0"


#: HAProxy completes no TCP handshake for a check of the connection alone, without a header: nothing is accepted.
OWN_CHECKS = {
    "a header": "option tcp-check",
    "a question": "option tcp-check\n tcp-check send who\\n\n tcp-check expect string 127.0.0.1",
}


@need("haproxy")
@PROXY_PROTOCOL
@pytest.mark.parametrize("name", OWN_CHECKS)
def test_health_checks_are_not_counted_with_the_clients(tmp_path: Path, name: str) -> None:
    server_line = "server one 127.0.0.1:%d send-proxy-v2 check inter 20ms"
    text = f"listen who\n bind {{front}}\n {OWN_CHECKS[name]}\n {server_line}\n"
    flags = ("--proxy-protocol", "v2", "--access-logfile", "access", "--stats-socket", "stats")
    with who(tmp_path, *flags) as server, haproxy(tmp_path, text % port_of(server)) as proxy:

        def counted() -> dict[str, int]:
            closed: dict[str, int] = read_stats(str(tmp_path / "stats"))["totals"]["closed"]
            return closed

        wait_for(lambda: counted().get("health_check", 0) >= 3, "checks were made")
        assert proxy.statistics()["one"]["chkfail"] == "0"
        (client,) = ask(proxy.address, [b"who"], "127.0.0.77")
        assert client.startswith(b"127.0.0.77:")
        wait_for(lambda: set(counted()) == {"health_check", "peer_eof"}, "the client has left")
        assert counted()["peer_eof"] == 1
        wait_for(lambda: bool((tmp_path / "access").read_text()), "the client is in the access log")
        assert (tmp_path / "access").read_text().count("\n") == 1


@need("nginx")
@PROXY_PROTOCOL
@pytest.mark.parametrize("version", ["v1", "auto"])
def test_nginx_passes_the_address_of_the_client(tmp_path: Path, version: str) -> None:
    with (
        who(tmp_path, "--proxy-protocol", version) as server,
        nginx(tmp_path, STREAM % (port_of(server), "on")) as front,
    ):
        check_client_is_known(front)


VERIFY = "verify required verifyhost localhost"


@need("haproxy")
@need("openssl")
@PROXY_PROTOCOL
@TLS
def test_haproxy_passes_the_address_of_the_client_before_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    certfile, keyfile = certificate
    flags = ("--proxy-protocol", "v2", "--certfile", str(certfile), "--keyfile", str(keyfile))
    text = f"listen who\n bind {{front}}\n server one 127.0.0.1:%d send-proxy-v2 ssl ca-file {certfile} {VERIFY}\n"
    with who(tmp_path, *flags) as server, haproxy(tmp_path, text % port_of(server)) as proxy:
        check_client_is_known(proxy.address)


@need("nginx")
@need("openssl")
@PROXY_PROTOCOL
@TLS
def test_nginx_passes_the_address_of_the_client_before_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    certfile, keyfile = certificate
    flags = ("--proxy-protocol", "v1", "--certfile", str(certfile), "--keyfile", str(keyfile))
    tls = f"proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate {certfile}; proxy_ssl_name localhost"
    with who(tmp_path, *flags) as server, nginx(tmp_path, STREAM % (port_of(server), "on; " + tls)) as front:
        check_client_is_known(front)


# nginx in TCP mode, and as a SCGI client


@need("nginx")
def test_nginx_forwards_tcp(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo") as server, nginx(tmp_path, STREAM % (port_of(server), "off")) as front:
        assert ask(front, [b"one", b"two"]) == [b"one", b"two"]


SCGI = """
from gserver import stream
from gserver.codecs import Netstring

@stream
def app(conn):
    length = b""
    while not length.endswith(b":"):
        length += conn.read_exactly(1)
    codec = Netstring()
    codec.receive(length + conn.read_exactly(int(length[:-1]) + 1))
    (request,) = codec.messages()
    fields = request.split(b"\\0")
    headers = dict(zip(fields[::2], fields[1::2]))
    body = conn.read_exactly(int(headers[b"CONTENT_LENGTH"]))
    said = headers[b"REQUEST_METHOD"] + b" " + headers[b"SCGI"] + b" " + body
    conn.send(b"Status: 200 OK\\r\\nContent-Type: text/plain\\r\\n\\r\\n" + said)
"""
SCGI_PASS = """
http {
    server {
        listen {front};
        location / {
            include /etc/nginx/scgi_params;
            scgi_param SCGI 1;
            scgi_pass 127.0.0.1:%d;
        }
    }
}
"""


@need("nginx")
@pytest.mark.skipif(not hasattr(codecs, "Netstring"), reason="there is no codec Netstring")
# Ids are needed: pytest 9.0 puts the parameters into an environment variable, which may have 128 KiB at most.
@pytest.mark.parametrize(
    ("method", "body"),
    [("GET", b""), ("POST", b"hello"), ("POST", b"x" * 200_000)],
    ids=["nothing", "short", "long"],
)
def test_nginx_receives_a_reply_over_scgi(tmp_path: Path, method: str, body: bytes) -> None:
    (tmp_path / "app.py").write_text(SCGI)
    head = f"{method} /path HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    with (
        GserverProcess(tmp_path, "app:app") as server,
        nginx(tmp_path, SCGI_PASS % port_of(server)) as front,
        socket.create_connection(front, PATIENCE_S) as client,
        client.makefile("rb") as replies,
    ):
        client.sendall(head.encode() + body)
        status, _, answer = replies.read().partition(b"\r\n")
        headers, _, said = answer.partition(b"\r\n\r\n")

        assert status == b"HTTP/1.1 200 OK"
        assert b"Content-Type: text/plain" in headers
        assert said == method.encode() + b" 1 " + body
