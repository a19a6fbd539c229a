"""The logs of a whole server as JSON, one connection in both logs, and the journal of a real systemd."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for
from tests.helpers.service_manager import ServiceManager, missing_for_a_manager

#: Replies with the id; fails for "fail", with characters that are no text.
APP = """
from gserver import Lines, Service

def on_message(line, conn):
    if line == b"fail":
        raise ValueError("two\\nlines " + chr(0xd800) + chr(0))
    return conn.id.encode()

app = Service(on_message, Lines, on_error=lambda fault, conn: conn.id.encode())
"""
FILES = ("app:app", "--log-file", "errors", "--access-logfile", "access")


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_connection_is_found_in_both_logs_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("--log-format", "json", "--log-level", "debug")
    with GserverProcess(tmp_path, *FILES, *options, workers=2, log=tmp_path / "errors") as server:
        with Client(server.address, Lines()) as client:
            name = client.call(b"fail").decode()
            assert client.call(b"?").decode() == name
            peer = "{}:{}".format(*client.local_address)
        wait_for(lambda: name in (tmp_path / "access").read_text(), "the connection is in the access log")
        listener = "{}:{}".format(*server.address)
        pids = {server.arbiter.pid, *server.serving_pids()}
    (closed,) = events(tmp_path / "access")
    written = events(tmp_path / "errors")
    about = [event for event in written if event.get("connection") == name]

    assert int(name.split("-")[0]) in pids
    assert {event["pid"] for event in written} == pids
    assert [event["level"] for event in about] == ["DEBUG", "ERROR", "DEBUG"]
    assert all(event["peer"] == peer for event in about)
    assert about[1]["message"] == f"handler failed for {peer} ({name})"
    assert about[1]["exception"].endswith("ValueError: two\nlines \\ud800\0")
    assert closed.pop("duration_s") > 0
    assert closed.pop("time") >= about[1]["time"]
    assert closed == {
        "id": name,
        "peer": peer,
        "listener": listener,
        "reason": "peer_eof",
        "messages": 2,
        "received_bytes": 7,
        "sent_bytes": 2 * (len(name) + 1),
        "tls": None,
        "pid": int(name.split("-")[0]),
    }


def test_the_text_of_both_logs_has_the_id(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("--access-logformat", "%(id)s %(r)s")
    with GserverProcess(tmp_path, *FILES, *options, log=tmp_path / "errors") as server:
        with Client(server.address, Lines()) as client:
            name = client.call(b"fail").decode()
        wait_for(lambda: (tmp_path / "access").read_text() == f"{name} peer_eof\n", "the line of the access log")

        assert f"({name})\nTraceback" in server.log


def test_the_proxy_and_the_version_of_tls_are_fields(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    (tmp_path / "app.py").write_text(APP)
    certfile, keyfile = map(str, certificate)
    options = ("--log-format", "json", "--certfile", certfile, "--keyfile", keyfile, "--proxy-protocol", "v1")
    with GserverProcess(tmp_path, *FILES, *options, log=tmp_path / "errors") as server:
        with socket.create_connection(server.address, PATIENCE_S) as plain:
            proxy = "{}:{}".format(*plain.getsockname())
            plain.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n")
            context = ssl.create_default_context(cafile=certfile)
            with context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"?\n")
                client.recv(100)
        wait_for(lambda: (tmp_path / "access").read_text() != "", "the line of the access log")
        (closed,) = events(tmp_path / "access")

        assert (closed["peer"], closed["proxy_peer"], closed["tls"]) == ("192.0.2.1:1000", proxy, "TLSv1.3")


# systemd

UNIT = """
[Service]
Type=notify
WorkingDirectory={folder}
ExecStart={python} -m gserver app:app -b unix:{folder}/socket --access-logfile - {options}
"""


@pytest.fixture
def systemd() -> Iterator[ServiceManager]:
    missing = missing_for_a_manager()
    if missing is not None:
        pytest.skip(missing)
    with ServiceManager() as manager:
        manager.start_journal()
        yield manager


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_journal_has_the_priority_and_the_process_of_each_line(systemd: ServiceManager, form: str) -> None:
    (systemd.folder / "app.py").write_text(APP)
    unit = UNIT.format(folder=systemd.folder, python=sys.executable, options=f"--log-format {form}")
    systemd.install("gserver.service", unit)
    systemd.call("start", "gserver.service")
    with Client(str(systemd.folder / "socket"), Lines()) as client:
        name = client.call(b"fail").decode()
    systemd.call("stop", "gserver.service")
    wait_for(lambda: any("Stopped" in entry["MESSAGE"] for entry in systemd.journal()), "the last line is there")
    entries = systemd.journal()

    (arbiter,) = {entry["_PID"] for entry in entries if "Stopped" in entry["MESSAGE"]}
    ours = [entry for entry in entries if entry.get("_PID") in (arbiter, name.split("-")[0])]
    failed = [entry for entry in ours if entry["PRIORITY"] == "3"]
    assert {entry["_PID"] for entry in failed} == {name.split("-")[0]}
    assert not any(entry["MESSAGE"].startswith("<") for entry in ours)
    (access,) = (entry for entry in ours if "peer_eof" in entry["MESSAGE"] and "Totals" not in entry["MESSAGE"])
    assert access["PRIORITY"] == "6"
    if form == "json":
        assert [json.loads(entry["MESSAGE"])["connection"] for entry in failed] == [name]
        assert json.loads(access["MESSAGE"])["id"] == name
    else:
        assert failed[0]["MESSAGE"] == f"[ERROR] handler failed for unix: ({name})"
        assert failed[1]["MESSAGE"] == "Traceback (most recent call last):"
        assert failed[-2]["MESSAGE"] == "ValueError: two"
