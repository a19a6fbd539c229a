"""Reload: new code, settings and addresses take effect without a lost client; a failed reload changes nothing."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess, run_gserver, wait_for
from tests.helpers.swarm import LINE_APP, Swarm

VERSIONED_APP = """
from gserver import Lines, Service
app = Service(lambda line, conn: b"{version}", Lines, probe=b"?")
"""
RAISES = "1 / 0"
HANGS = "import time\ntime.sleep(3600)"
FAILS_ITS_PROBE = """
from gserver import Lines, Service
def answer(line, conn):
    raise RuntimeError("it cannot answer")
app = Service(answer, Lines, probe=b"?")
"""
DIES_RIGHT_AFTER_READY = """
import os, gevent
from gserver import Lines, Service
app = Service(lambda line, conn: line, Lines, ready=lambda: gevent.spawn_later(0.2, os._exit, 7))
"""
IS_NOT_READY = """
from gserver import Lines, Service
def ready():
    raise RuntimeError("the database is not there")
app = Service(lambda line, conn: line, Lines, ready=ready)
"""


def write(folder: Path, text: str) -> None:
    """Write a new version of the app, and remove its bytecode, which is checked by the time in whole seconds."""
    (folder / "app.py").write_text(text)
    for cached in folder.glob("__pycache__/app.*"):
        cached.unlink()


def answer_of(server: GserverProcess) -> bytes:
    with Client(server.address, Lines()) as client:
        reply: bytes = client.call(b"?")
        return reply


def reload_with(server: GserverProcess, folder: Path) -> tuple[int, str]:
    ended = run_gserver("--reload-pid", "gserver.pid", cwd=folder)
    return ended.returncode, ended.stderr


#: Shortens each reload from the default of 1 s.
SETTLE = ("--reload-settle", "0.1")


def start(folder: Path, *arguments: str, workers: int = 2) -> GserverProcess:
    return GserverProcess(folder, "app:app", "--pid", "gserver.pid", *SETTLE, *arguments, workers=workers)


def test_new_code_is_served_after_a_reload(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    with start(tmp_path) as server:
        before = {worker.pid for worker in server.workers()}
        assert answer_of(server) == b"1"
        write(tmp_path, VERSIONED_APP.format(version=2))

        assert reload_with(server, tmp_path) == (0, "")

        assert answer_of(server) == b"2"
        wait_for(lambda: not before & {worker.pid for worker in server.workers()}, "the old workers have ended")
        assert len(server.workers()) == 2
        assert "Reloaded; listening at:" in server.log


@pytest.mark.parametrize(
    ("app", "arguments", "said"),
    [
        (RAISES, (), "ZeroDivisionError"),
        (HANGS, (), "time.sleep(3600)"),
        (FAILS_ITS_PROBE, (), "the probe was"),
        (IS_NOT_READY, (), "the database is not there"),
        (DIES_RIGHT_AFTER_READY, ("--reload-settle", "60"), "exited with status 7"),
    ],
    ids=["raises at import", "hangs at import", "fails its probe", "is not ready", "dies right after it is ready"],
)
def test_broken_code_never_serves(tmp_path: Path, app: str, arguments: tuple[str, ...], said: str) -> None:
    write(tmp_path, LINE_APP)
    config = tmp_path / "gserver.conf.py"
    config.write_text("")
    with start(tmp_path, *arguments) as server:
        before = {worker.pid for worker in server.workers()}
        with Swarm(server.address, long=10, short=2) as swarm:
            write(tmp_path, app)
            if app is HANGS:  # only for the new code: the old one may start slowly
                config.write_text("ready_timeout = 3\n")

            status, error = reload_with(server, tmp_path)

            verified = swarm.tally.verified
            wait_for(lambda: swarm.tally.verified > verified + 100, "the old code goes on serving")
        assert status == 1
        assert re.fullmatch(r"gserver: the reload failed: .+\n", error)
        wait_for(lambda: {worker.pid for worker in server.workers()} == before, "only the old workers are there")
        assert said in server.log
        assert server.log.count("Traceback") <= 1 + (app is FAILS_ITS_PROBE)
        assert (swarm.tally.faults, swarm.tally.turned_away, swarm.tally.ended.keys()) == ([], 0, {"by the client"})


def test_a_reload_loses_no_exchange(tmp_path: Path) -> None:
    write(tmp_path, LINE_APP)
    with start(tmp_path, "--drain-spread", "0.5") as server:
        with Swarm(server.address) as swarm:
            for _ in range(2):
                assert reload_with(server, tmp_path) == (0, "")
        assert swarm.tally.faults == []
        assert swarm.tally.verified > 0


def test_hup_reloads(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    with start(tmp_path, workers=1) as server:
        write(tmp_path, VERSIONED_APP.format(version=2))
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")

        assert answer_of(server) == b"2"


def test_changed_settings_and_addresses_take_effect(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    config = tmp_path / "gserver.conf.py"
    config.write_text("bind = ['127.0.0.1:0', 'unix:old']\nworkers = 1\n")
    with GserverProcess(tmp_path, "app:app", "--pid", "gserver.pid", *SETTLE, bind=None, workers=None) as server:
        config.write_text("bind = ['127.0.0.1:0', 'unix:new']\nworkers = 3\nloglevel = 'debug'\nbacklog = 5\n")

        assert reload_with(server, tmp_path) == (0, "")

        assert len(server.workers()) >= 3
        for address in (server.address, str(tmp_path / "new")):
            with Client(address, Lines()) as client:
                assert client.call(b"?") == b"1"
        assert not (tmp_path / "old").exists()
        assert "Setting backlog cannot be changed by a reload" in server.log


PRINTING_APP = """
from gserver import Lines, Service
app = Service(lambda line, conn: print(line.decode(), flush=True), Lines)
"""


@pytest.mark.parametrize("preload", ["False", "True"])
def test_new_workers_log_to_the_files_of_the_new_settings(tmp_path: Path, preload: str) -> None:
    write(tmp_path, PRINTING_APP)
    config = tmp_path / "gserver.conf.py"
    text = f"capture_output = True\npreload_app = {preload}\nerrorlog = 'errors.1'\naccesslog = 'access.1'\n"
    config.write_text(text)
    log = tmp_path / "errors.1"
    with GserverProcess(tmp_path, "app:app", "--pid", "gserver.pid", *SETTLE, log=log) as server:
        config.write_text(text.replace(".1", ".2"))
        assert reload_with(server, tmp_path) == (0, "")
        with Client(server.address, Lines()) as client:
            client.send(b"a line")
        wait_for(lambda: (tmp_path / "access.2").read_text() != "", "a line of the access log")

    assert "a line\n" in (tmp_path / "errors.2").read_text()
    assert (tmp_path / "access.1").read_text() == ""


def test_a_log_that_cannot_be_opened_fails_the_reload(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    config = tmp_path / "gserver.conf.py"
    config.write_text("accesslog = 'access'")
    with start(tmp_path, workers=1) as server:
        config.write_text("accesslog = 'nowhere/access'\nworkers = 2")

        status, error = reload_with(server, tmp_path)

        says = "gserver: the reload failed: cannot log to 'nowhere/access': No such file or directory\n"
        assert (status, error) == (1, says)
        assert answer_of(server) == b"1"
        wait_for(lambda: (tmp_path / "access").read_text() != "", "a line of the access log")


def test_after_a_failed_reload_the_old_log_files_are_used(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    config = tmp_path / "gserver.conf.py"
    config.write_text("accesslog = 'access.1'")
    with start(tmp_path, workers=1) as server:
        write(tmp_path, RAISES)
        config.write_text("accesslog = 'access.2'")
        assert reload_with(server, tmp_path)[0] == 1
        write(tmp_path, VERSIONED_APP.format(version=2))
        server.kill_worker(server.serving_pids()[0])
        assert answer_of(server) == b"2"
        wait_for(lambda: (tmp_path / "access.1").read_text() != "", "a line of the access log")


def test_an_address_in_use_fails_the_reload(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    config = tmp_path / "gserver.conf.py"
    config.write_text("bind = '127.0.0.1:0'")
    with (
        GserverProcess(tmp_path, "app:app", "--pid", "gserver.pid", bind=None, workers=None) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        workers = server.workers()
        config.write_text(f"bind = ['127.0.0.1:0', 'unix:extra', '{taken}']")

        status, error = reload_with(server, tmp_path)

        assert (status, error) == (
            1,
            f"gserver: the reload failed: cannot listen on {taken}: Address already in use\n",
        )
        assert server.workers() == workers
        assert answer_of(server) == b"1"
        assert not (tmp_path / "extra").exists()


@pytest.mark.parametrize("text", ["graceful_timeout = -1", "wrokers = 2", "workers = "])
def test_a_wrong_config_file_changes_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    config = tmp_path / "gserver.conf.py"
    config.write_text("workers = 1")
    with start(tmp_path, workers=1) as server:
        workers = server.workers()
        config.write_text(text)

        status, error = reload_with(server, tmp_path)

        assert status == 1
        assert error.count("\n") == 1
        assert server.workers() == workers
        assert answer_of(server) == b"1"


def test_a_reload_that_hangs_is_replaced_by_a_newer_one(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1))
    with start(tmp_path, workers=1) as server:
        write(tmp_path, HANGS)
        server.signal(signal.SIGHUP)
        server.wait_for_log("Booting worker", 2)
        write(tmp_path, VERSIONED_APP.format(version=3))

        assert reload_with(server, tmp_path) == (0, "")

        assert answer_of(server) == b"3"


def test_a_client_in_the_accept_queue_is_served_by_the_new_worker(tmp_path: Path) -> None:
    """The only worker is suspended while the client connects, and has to drain before it can accept."""
    write(tmp_path, VERSIONED_APP.format(version=1))
    with start(tmp_path, "--timeout", "0", workers=1) as server:
        (worker,) = server.workers()
        worker.suspend()
        with Client(server.address, Lines()) as client:
            client.send(b"?")
            write(tmp_path, VERSIONED_APP.format(version=2))
            assert reload_with(server, tmp_path) == (0, "")

            assert client.recv() == b"2"
        worker.resume()


def test_connections_of_a_draining_worker_receive_their_replies_and_eof(tmp_path: Path) -> None:
    write(tmp_path, LINE_APP)
    with start(tmp_path, "--drain-spread", "1", workers=1) as server:
        clients = [Client(server.address, Lines()) for _ in range(20)]
        for client in clients:
            client.recv()
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        for client in clients:
            client.send(b"last")

        for client in clients:
            assert [line.split()[1] for line in client] in ([b"last"], [])
            client.close()


def test_preloaded_code_is_imported_once_for_all_workers(tmp_path: Path) -> None:
    write(tmp_path, VERSIONED_APP.format(version=1) + "print('imported', flush=True)\n")
    with start(tmp_path, "--preload", workers=3) as server:
        assert server.log.count("imported") == 1
        assert answer_of(server) == b"1"
        write(tmp_path, VERSIONED_APP.format(version=2))

        assert reload_with(server, tmp_path) == (0, "")

        assert answer_of(server) == b"2"


def test_after_a_failed_reload_preloaded_code_still_replaces_a_dead_worker(tmp_path: Path) -> None:
    write(tmp_path, LINE_APP)
    with start(tmp_path, "--preload", workers=1) as server:
        write(tmp_path, RAISES)
        assert reload_with(server, tmp_path)[0] == 1
        with Client(server.address, Lines()) as client:
            pid = int(client.recv())

        server.kill_worker(pid)

        with Client(server.address, Lines()) as client:
            assert int(client.recv()) != pid


@pytest.mark.parametrize("raises", ["sys.exit(3)", "raise asyncio.CancelledError", "raise KeyboardInterrupt"])
def test_a_config_file_that_raises_fails_the_reload_and_nothing_else(tmp_path: Path, raises: str) -> None:
    config = tmp_path / "gserver.conf.py"
    config.write_text("workers = 1\n")
    with GserverProcess(tmp_path, "-p", "pid", "echo", workers=None) as server:
        config.write_text(f"import asyncio, sys\n{raises}\n")
        ended = run_gserver("--reload-pid", "pid", cwd=tmp_path)
        assert ended.returncode == 1
        assert "cannot be used" in ended.stderr
        with server.connect() as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
