"""The real executable: start, supervision and stop. No process or file may be left."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from gserver.arbiter.arbiter import EXIT_CANNOT_START
from gserver.client import Client
from gserver.codecs import JsonLines, Lines
from tests.helpers.processes import GserverProcess, run_gserver, wait_for

SUM = {"type": "SUM", "a": 10, "b": 20}

# Replies to each line with the pid of the worker, after as many seconds as the line contains.
SLOW_APP = """
import os, time
from gserver import Lines, Service

def answer(line, conn):
    time.sleep(float(line))
    return b"%d" % os.getpid()

app = Service(answer, Lines)
"""


@pytest.fixture
def slow_app(tmp_path: Path) -> str:
    (tmp_path / "slow_app.py").write_text(SLOW_APP)
    return "slow_app:app"


def assert_answers(server: GserverProcess) -> None:
    with Client(server.address, JsonLines()) as client:
        assert client.call(SUM) == {"status": "OK", "result": 30}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_serves_and_stops_with_status_0(tmp_path: Path, stop: int) -> None:
    with GserverProcess(tmp_path, "json", workers=2) as server:
        assert_answers(server)
        server.signal(stop)

        assert server.wait() == 0, server.log
        assert "Stopped" in server.log


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_repeated_stop_signals_do_no_harm(tmp_path: Path, stop: int) -> None:
    with GserverProcess(tmp_path, "echo") as server:
        server.signal(signal.SIGTERM)

        def signal_again() -> bool:
            server.process.send_signal(stop)
            return server.process.poll() is not None

        wait_for(signal_again, "the server has ended")
        assert server.wait() == 0
        assert server.log.rstrip().endswith("Stopped")


def test_start_stop_and_workers_are_logged(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", workers=2) as server:
        workers = server.workers()
        server.signal(signal.SIGTERM)
        server.wait()

    assert "Starting gserver" in server.log
    assert "Listening at: 127.0.0.1:" in server.log
    for worker in workers:
        assert f"Booting worker (pid: {worker.pid})" in server.log
        assert f"Worker exited with status 0 (pid: {worker.pid})" in server.log


def test_connections_are_logged_at_debug_with_reason_and_bytes(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", "--log-level", "debug") as server:
        with server.connect() as client:
            client.sendall(b"12345")
            assert client.recv(100) == b"12345"
        server.wait_for_log(r"closed 127\.0\.0\.1:\d+ \(\d+-\d+\) reason=peer_eof received=5 sent=5")


def test_messages_received_before_a_term_are_answered(tmp_path: Path, slow_app: str) -> None:
    """At TERM one message is in its handler and others are in the kernel: all are answered, then comes EOF."""
    with GserverProcess(tmp_path, slow_app) as server, Client(server.address, Lines()) as client:
        client.send_bytes(b"0\n")
        pid = client.recv()
        client.send_bytes(b"0.5\n")
        wait_for(lambda: server.unread_bytes() == 0, "the first message is in its handler")
        client.send_bytes(b"0\n" * 100)
        server.signal(signal.SIGTERM)

        assert list(client) == [pid] * 101
        assert server.wait() == 0


def test_a_connection_in_the_accept_queue_at_term_is_answered(tmp_path: Path) -> None:
    """The worker is suspended while the client connects and sends; when it resumes, TERM is pending."""
    with GserverProcess(tmp_path, "json") as server:
        (worker,) = server.workers()
        worker.suspend()
        with Client(server.address, JsonLines()) as client:
            client.send(SUM)
            server.signal(signal.SIGTERM)
            server.wait_for_log("Stopping")
            worker.resume()

            assert list(client) == [{"status": "OK", "result": 30}]
        assert server.wait() == 0


def test_a_handler_that_outlives_the_graceful_timeout_is_killed(tmp_path: Path, slow_app: str) -> None:
    with (
        GserverProcess(tmp_path, slow_app, "--graceful-timeout", "0.3") as server,
        Client(server.address, Lines()) as client,
    ):
        client.call(b"0")
        client.send(b"60")
        wait_for(lambda: server.unread_bytes() == 0, "the message is in its handler")
        server.signal(signal.SIGTERM)

        assert server.wait() == 0
        assert list(client) == []
        assert "Killed 1 connections that were still busy" in server.log


def test_a_second_interrupt_stops_at_once(tmp_path: Path, slow_app: str) -> None:
    with GserverProcess(tmp_path, slow_app) as server, Client(server.address, Lines()) as client:
        client.call(b"0")
        client.send(b"60")
        wait_for(lambda: server.unread_bytes() == 0, "the message is in its handler")
        server.signal(signal.SIGINT)
        server.wait_for_log("Stopping: draining")
        server.signal(signal.SIGINT)

        assert server.wait() == 0


def test_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json") as server:
        for deaths in range(1, 3):
            (worker,) = server.workers()
            os.kill(worker.pid, signal.SIGKILL)
            server.wait_for_log("Worker ready", deaths + 1)
            assert_answers(server)

        assert "Worker exited with signal SIGKILL" in server.log


def test_workers_end_when_their_arbiter_is_killed(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "json", workers=2) as server:
        workers = server.workers()
        server.signal(signal.SIGKILL)
        server.wait()

        wait_for(lambda: not any(worker.is_running() for worker in workers), "the workers have ended")


def test_a_blocking_handler_delays_only_its_own_connection(tmp_path: Path, slow_app: str) -> None:
    """time.sleep() is gevent's, because the worker patches before it imports the application."""
    with (
        GserverProcess(tmp_path, slow_app) as server,
        Client(server.address, Lines()) as slow,
        Client(server.address, Lines()) as fast,
    ):
        slow.send(b"60")
        wait_for(lambda: server.unread_bytes() == 0, "the slow message is in its handler")

        assert fast.call(b"0") == b"%d" % server.workers()[0].pid
        slow.close()
        server.signal(signal.SIGQUIT)


def test_with_no_patch_the_standard_library_is_not_patched(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import socket\nfrom gserver import Service\n"
        "app = Service(lambda message, conn: socket.socket.__module__.encode())"
    )
    for flag, module in [((), b"gevent._socket3"), (("--no-patch",), b"socket")]:
        with GserverProcess(tmp_path, "app:app", *flag) as server, Client(server.address) as client:
            assert client.call(b"?") == module


def test_several_binds_are_served_by_one_server(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with GserverProcess(tmp_path, "-b", "[::1]:0", "-b", f"unix:{path}", "json") as server:
        port = re.search(r"\[::1\]:(\d+)", server.log)
        assert port
        for address in [server.address, ("::1", int(port[1])), path]:
            with Client(address, JsonLines()) as client:
                assert client.call(SUM)["result"] == 30

    assert not os.path.exists(path)


def test_a_config_file_is_read_and_flags_take_precedence(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text("workers = 3\ngreenlets = 'dedicated'\n")
    with GserverProcess(tmp_path, "-c", "conf.py", "json", workers=2) as server:
        assert len(server.workers()) == 2
        assert_answers(server)


def test_chdir_is_the_folder_of_the_application(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "over_there.py").write_text("from gserver.handlers import json\napp = json()")
    with GserverProcess(tmp_path, "--chdir", str(folder), "over_there:app") as server:
        assert_answers(server)


def test_an_address_in_use_is_one_line_and_status_1(tmp_path: Path) -> None:
    """The server retries for some seconds; the test makes them short."""
    (tmp_path / "gserver.conf.py").write_text("from gserver.arbiter import listeners\nlisteners.RETRY_S = 0.01\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run_gserver("json", "-b", f"127.0.0.1:{port}", "--log-level", "error", cwd=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr == f"gserver: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_missing_application_is_a_failure(tmp_path: Path) -> None:
    ended = run_gserver("nowhere:app", "-b", "127.0.0.1:0", "-w", "4", cwd=tmp_path)

    assert ended.returncode == EXIT_CANNOT_START
    assert ended.stderr.count("no module named 'nowhere', in 'nowhere:app'") == 1
    assert "Traceback" not in ended.stderr


def test_an_application_that_raises_is_a_failure_with_one_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    ended = run_gserver("broken:app", "-b", "127.0.0.1:0", "-w", "4", cwd=tmp_path)

    assert ended.returncode == EXIT_CANNOT_START
    assert ended.stderr.count("ZeroDivisionError") == 1
