"""The profiler in a real worker, which is patched, while clients send."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from tests.helpers.processes import GserverProcess

# The line "start" starts a profile, "result" returns its innermost functions and the roots of its stacks.
APP = """
import json, os, time
import gevent
from gserver import Lines, Service
from gserver.worker.profiler import Profiler

def busy_function():
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass

def waiting_function():
    gevent.sleep(0.3)

def on_message(line, conn):
    if line == b"start":
        profiler.start(60)
    elif line == b"burn":
        busy_function()
    elif line == b"wait":
        waiting_function()
    elif line == b"fork":
        pid = os.fork()
        if pid == 0:
            os._exit(profiler.is_running)
        return b"%d" % os.waitpid(pid, 0)[1]
    elif line == b"result":
        profile = profiler.stop()
        found = [profile.top(), profile.idle, profile.samples, list(profile.lines())]
        return json.dumps(found).encode()
    return line

app = Service(on_message, Lines)
profiler = Profiler(app)
"""


@pytest.mark.parametrize("pure", [False, True])
def test_a_worker_is_profiled(tmp_path: Path, pure: bool) -> None:
    (tmp_path / "profiled.py").write_text(APP)
    environment = {"GSERVER_PURE": "1"} if pure else {}
    with (
        GserverProcess(tmp_path, "profiled:app", environment=environment) as server,
        contextlib.ExitStack() as clients,
    ):
        one, waits = (clients.enter_context(Client(server.address, Lines())) for _ in range(2))
        one.call(b"start")
        waits.send(b"wait")
        assert one.call(b"fork") == b"0"
        for _ in range(5):
            one.call(b"burn")
        waits.recv()
        (top, *_), idle, samples, lines = json.loads(one.call(b"result"))

    assert top[0] == "profiled:busy_function"
    assert top[1] > samples / 4
    assert idle < samples
    waiting = [int(line.rpartition(" ")[2]) for line in lines if "waiting_function" in line]
    assert sum(waiting) < top[1] / 4
    assert any(line.startswith("handler:profiled:on_message;") for line in lines)


def test_a_worker_that_is_being_profiled_ends_as_usual(tmp_path: Path) -> None:
    (tmp_path / "profiled.py").write_text(APP)
    with GserverProcess(tmp_path, "profiled:app") as server, Client(server.address, Lines()) as client:
        client.call(b"start")

    assert "exited with signal" not in server.log
