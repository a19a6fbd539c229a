"""gserverctl stacks, profile and top with real servers: busy, stuck, ending, and hostile workers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from gserver.control.client import ControlClient
from gserver.control.protocol import Problem
from tests.helpers.processes import PATIENCE_S, GserverProcess, wait_for
from tests.integration.test_control import COMMAND, Finished, assert_one_line, run, succeeded

APP = """
import time
import gevent
from gevent.monkey import get_original
from gserver import Lines, Service

def wait_here(line):
    gevent.sleep(3600)

def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))

def \N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}(line):
    gevent.sleep(3600); "\N{GRINNING FACE}\N{CJK UNIFIED IDEOGRAPH-4E2D}"

def handle(line, conn):
    if line == b"wait":
        wait_here(line)
    elif line == b"wait in French":
        \N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}(line)
    elif line == b"spin":
        spin(0.002)
    elif line == b"block":
        get_original("time", "sleep")(3600)
    return line

app = Service(handle, codec=Lines)
"""
#: A collapsed stack, as flamegraph.pl reads it: frames, separated by ";", then a space and a count.
COLLAPSED = re.compile(r"[^;\s]+(;[^;\s]+)* [1-9][0-9]*")


class Served(GserverProcess):
    """A server with its control socket at `ctl`."""

    def __init__(self, folder: Path, *arguments: str, app: str = APP, **options: Any) -> None:
        (folder / "app.py").write_text(app)
        self.path = str(folder / "ctl")
        super().__init__(folder, "app:app", "--control-socket", self.path, *arguments, **options)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def ctl(self, *arguments: str) -> Finished:
        return run("-s", self.path, *arguments)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*COMMAND, "-s", self.path, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def worker(self) -> int:
        (pid,) = self.serving_pids()
        return pid

    @contextlib.contextmanager
    def sent(self, *lines: bytes) -> Iterator[list[socket.socket]]:
        """A client for each line."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.connect()) for _ in lines]
            for client, line in zip(clients, lines, strict=True):
                client.sendall(line + b"\n")
            yield clients

    @contextlib.contextmanager
    def kept_busy(self) -> Iterator[None]:
        """A client that always has a message handled."""
        with self.connect() as client:
            over = threading.Event()

            def talk() -> None:
                lines = client.makefile("rb")
                with contextlib.suppress(OSError):
                    while not over.is_set():
                        client.sendall(b"spin\n")
                        lines.readline()

            thread = threading.Thread(target=talk)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join(PATIENCE_S)

    def is_profiling(self) -> bool:
        """Whether SIGPROF is caught: the profiler restores its default when it ends."""
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{self.worker}/status").read_text(), re.M)
        assert caught
        return bool(int(caught[1], 16) >> (signal.SIGPROF - 1) & 1)

    def waiting(self) -> int:
        with ControlClient(self.path) as client:
            return int(client.call("connections", where="state=handling")["count"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as made:
        yield made


# Stacks


def test_the_stack_of_a_waiting_handler_is_shown_with_its_connection(server: Served) -> None:
    with server.sent(b"wait", b"hello") as (waiting, _):
        wait_for(lambda: server.waiting() == 1, "the handler waits")
        output = succeeded(server.ctl("stacks"))
        assert f"Worker {server.worker}\n" in output
        assert "in wait_here\n    gevent.sleep(3600)\n" in output
        assert f"127.0.0.1:{waiting.getsockname()[1]}" in output
        assert output.endswith("1 handlers wait, of 2 connections\n")
        as_json = json.loads(succeeded(server.ctl("stacks", "--json", str(server.worker))))
        assert "in wait_here" in as_json["stacks"][str(server.worker)]


def test_names_and_lines_of_any_language_are_shown(server: Served) -> None:
    with server.sent(*[b"wait in French"] * 50):
        wait_for(lambda: server.waiting() == 50, "the handlers wait")
        output = succeeded(server.ctl("stacks"))
        assert output.count("in \u00e9t\u00e9\n") == 50
        assert output.count("\N{GRINNING FACE}\u4e2d") == 50


def test_five_thousand_stacks_are_shown_while_others_are_served(server: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(5000):
            stack.enter_context(server.connect()).sendall(b"wait\n")
        wait_for(lambda: server.waiting() == 5000, "the handlers wait")
        client = server.begin("stacks")
        with server.connect() as other:
            lines = other.makefile("rb")
            slowest = 0.0
            output: list[str] = []
            reading = threading.Thread(target=lambda: output.append(client.communicate(timeout=PATIENCE_S)[0]))
            reading.start()
            while reading.is_alive():
                began = time.monotonic()
                other.sendall(b"hello\n")
                assert lines.readline() == b"hello\n"
                slowest = max(slowest, time.monotonic() - began)
        assert client.returncode == 0
        assert output[0].count("in wait_here\n") == 5000
        assert output[0].endswith("5000 handlers wait, of 5001 connections\n")
        assert slowest < 1.0


def test_a_blocked_worker_sends_its_stacks_from_a_signal_handler_and_logs_them(tmp_path: Path) -> None:
    with Served(tmp_path, workers=2) as server, contextlib.ExitStack() as stack:
        pids = server.serving_pids()
        blocked = stack.enter_context(server.sent(b"block"))
        assert blocked
        shown = succeeded(server.ctl("stacks"))
        assert all(f"Worker {pid}\n" in shown for pid in pids)
        found = re.search(r"Worker (\d+)\nRunning greenlet for <Connection \1-", shown)
        assert found, shown
        assert 'get_original("time", "sleep")(3600)' in shown
        server.wait_for_log("Stacks of the worker, requested by USR2")
        assert 'get_original("time", "sleep")(3600)' in server.log
        assert succeeded(server.ctl("stacks", found[1])).startswith(f"Worker {found[1]}\nRunning greenlet")
        os.kill(int(found[1]), signal.SIGKILL)


def test_a_stopped_worker_writes_its_stacks_when_it_goes_on(server: Served) -> None:
    pid = server.worker
    os.kill(pid, signal.SIGSTOP)
    try:
        problem = "does not answer: it writes its stacks to the error log, as soon as it can"
        assert_one_line(server.ctl("stacks", str(pid)), 1, f"^gserverctl: worker {pid} {problem}$")
        assert_one_line(server.ctl("stacks"), 4, f"^gserverctl: worker {pid} is missing: {problem}$")
    finally:
        os.kill(pid, signal.SIGCONT)
    server.wait_for_log("Stacks of the worker, requested by USR2")
    wait_for(lambda: "0 handlers wait" in server.ctl("stacks").stdout, "it answers again")


def test_a_worker_whose_application_hangs_shows_where(tmp_path: Path) -> None:
    with Served(tmp_path, "--reload-settle", "0") as server:
        (tmp_path / "app.py").write_text("import time\ntime.sleep(3600)\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Booting worker", 2)
        (booting,) = {one.pid for one in server.workers()} - {server.worker}
        assert 'app.py", line 2' in succeeded(server.ctl("stacks", str(booting)))


def test_wrong_workers_are_one_line(server: Served) -> None:
    for command in ("stacks", "profile"):
        assert_one_line(server.ctl(command, "1"), 1, f"there is no worker 1, must be one of: {server.worker}$")
        assert_one_line(server.ctl(command, "0"), 1, "argument pid is 0, must be a whole number from 1")


# Profiles


def test_a_profile_finds_the_busiest_function(server: Served) -> None:
    with server.kept_busy():
        finished = server.ctl("profile", str(server.worker), "--seconds", "2")
    lines = finished.stdout.splitlines()

    assert finished.returncode == 0, finished
    assert re.match(
        r"gserverctl: \d+ samples in 2\.?\d* s, \d+ of them while the worker ran; CPU time ", finished.stderr
    )
    assert all(COLLAPSED.fullmatch(line) for line in lines)
    assert re.match(r"handler:app:handle;.*;app:spin:\d+ \d+$", lines[0])
    counts = [int(line.rpartition(" ")[2]) for line in lines]
    assert counts == sorted(counts, reverse=True)
    busy = sum(count for line, count in zip(lines, counts, strict=True) if ";app:spin:" in line)
    assert busy > sum(counts) / 2
    assert not server.is_profiling()


def test_a_profile_as_json(server: Served) -> None:
    result = json.loads(server.ctl("profile", str(server.worker), "--seconds", "0.5", "--json").stdout)

    assert result["pid"] == server.worker
    assert result["seconds"] == pytest.approx(0.5, abs=0.4)
    assert result["samples"] >= result["idle"] >= 0
    assert result.keys() >= {"interval_s", "cpu_s", "overflowed", "stacks"}


def test_a_second_profile_is_refused_in_one_line_and_nothing_is_logged(server: Served) -> None:
    first = server.begin("profile", str(server.worker), "--seconds", "3")
    wait_for(server.is_profiling, "the first one runs")
    assert_one_line(
        server.ctl("profile", str(server.worker), "--seconds", "1"),
        1,
        f"^gserverctl: worker {server.worker}: a profile is running already$",
    )
    assert first.wait(PATIENCE_S) == 0
    first.communicate()
    assert "Traceback" not in server.log


def test_a_profile_ends_with_its_client(server: Served) -> None:
    client = server.begin("profile", str(server.worker), "--seconds", "300")
    wait_for(server.is_profiling, "it runs")
    client.kill()
    client.communicate()
    wait_for(lambda: not server.is_profiling(), "the profiler has ended", 5.0)
    assert server.ctl("profile", str(server.worker), "--seconds", "0.2").returncode == 0


def test_ctrl_c_ends_a_profile(server: Served) -> None:
    client = server.begin("profile", str(server.worker), "--seconds", "300")
    wait_for(server.is_profiling, "it runs")
    client.send_signal(signal.SIGINT)
    output, errors = client.communicate(timeout=PATIENCE_S)
    assert (client.returncode, output, errors) == (130, "", "")
    wait_for(lambda: not server.is_profiling(), "the profiler has ended", 5.0)


def test_a_client_that_only_ends_its_requests_gets_its_profile(server: Served) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(server.path)
        client.sendall(b'{"command": "profile", "pid": %d, "seconds": 1}\n' % server.worker)
        client.shutdown(socket.SHUT_WR)
        lines = client.makefile("rb").readlines()
    assert json.loads(lines[-1])["result"]["pid"] == server.worker


def test_a_worker_that_ends_meanwhile_ends_its_profile(server: Served) -> None:
    pid = server.worker
    client = server.begin("profile", str(pid), "--seconds", "300")
    wait_for(server.is_profiling, "it runs")
    os.kill(pid, signal.SIGKILL)
    _, errors = client.communicate(timeout=PATIENCE_S)
    assert (client.returncode, errors) == (1, f"gserverctl: worker {pid}: the worker has ended\n")
    server.wait_for_log("Worker ready", 2)


def test_a_reload_that_replaces_the_worker_ends_its_profile(tmp_path: Path) -> None:
    with Served(tmp_path, "--reload-settle", "0", "--drain-spread", "0") as server:
        pid = server.worker
        client = server.begin("profile", str(pid), "--seconds", "300")
        wait_for(server.is_profiling, "it runs")
        server.signal(signal.SIGHUP)
        _, errors = client.communicate(timeout=PATIENCE_S)
        assert (client.returncode, errors) == (1, f"gserverctl: worker {pid}: the worker has ended\n")
        server.wait_for_log("Reloaded")
        assert server.ctl("profile", str(server.worker), "--seconds", "0.2").returncode == 0


def test_wrong_seconds_are_one_line_or_wrong_usage(server: Served) -> None:
    assert_one_line(server.ctl("profile", str(server.worker), "--seconds", "301"), 1, "above 0 and up to 300")
    finished = server.ctl("profile", str(server.worker), "--seconds", "x")
    assert finished.returncode == 2
    assert finished.stderr.endswith("argument --seconds: 'x' is no number of seconds above 0\n")


# Workers that answer nonsense

NONSENSE = """
import json, threading
from gserver import Lines, Service
from gserver.worker import inspection

ANSWERS = {answers}
answers = iter(ANSWERS)

def page_of(self, subject, arguments):
    return next(answers, '{{"rows": [], "more": null}}')

inspection.Inspection._page_of = page_of
app = Service(lambda line, conn: line, codec=Lines)
"""


def test_no_answer_of_a_worker_ends_the_arbiter(tmp_path: Path) -> None:
    answers = [
        '{"rows": [{"pid": 1, "self": 2, "": 3}], "more": null}',
        '{"rows": [{"pid": 1, "self": 2, "": 3}], "more": null}',
        '{"rows": [{"pid": 1, "self": 2, "": 3}], "more": null}',
        '{"rows": "text", "more": null}',
        '{"rows": {"a": 1}, "more": null}',
        '{"rows": [null, 1, [], {}], "more": [1]}',
        '{"rows": [NaN, Infinity, 1e999], "more": null}',
        '{"rows": ["' + "x" * 30_000 + '"], "more": null}',
        # Of these, some can be parsed by the arbiter, but not be made into JSON again.
        *(f'{{"rows": [{"[" * depth}{"]" * depth}], "more": null}}' for depth in (*range(800, 1000), 6000)),
    ]
    with Served(tmp_path, app=NONSENSE.format(answers=repr(answers))) as server, ControlClient(server.path) as client:
        pid = server.worker
        outcomes: list[str] = []
        while len(outcomes) < len(answers) and "does not answer" not in "".join(outcomes[-1:]):
            asked: list[tuple[str, dict[str, Any]]] = [
                ("connection", {"connection": f"{pid}-1"}),
                ("stacks", {"pid": pid}),
                ("connections", {}),
            ]
            command, arguments = asked[len(outcomes) % 3]
            try:
                client.call(command, **arguments)
                outcomes.append("")
            except Problem as problem:
                outcomes.append(str(problem))
        # From Python 3.14 on, no answer that fits into a message is too deep to be parsed.
        assert sys.version_info >= (3, 14) or "does not answer" in outcomes[-1]
        assert len(outcomes) > 100
        assert client.call("status")["pid"] == server.process.pid
        assert server.worker == pid
    assert "Traceback" not in server.log


@pytest.mark.parametrize("answer", ["[]", "nonsense", '{"rows": 5, "more": null}'])
def test_an_answer_that_is_none_is_like_no_answer(tmp_path: Path, answer: str) -> None:
    with Served(tmp_path, app=NONSENSE.format(answers=repr([answer]))) as server:
        assert_one_line(server.ctl("profile", str(server.worker)), 1, "the worker does not answer$")
        assert_one_line(server.ctl("connections"), 4, "the worker does not answer$")
