"""Durations are measured with the monotonic clock, so that steps of the wall clock have no effect.

NTP steps the wall clock, and so does the resume of a virtual machine. The first tests search the sources for readings
of the wall clock. The last one sets the clock of a real server back, with a library that replaces functions of libc.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import GserverProcess, wait_for

ROOT = Path(__file__).parents[2]
PYTHON = [path for part in ("gserver", "loadtests", "benchmarks", "examples") for path in (ROOT / part).rglob("*.py")]
OTHERS = [
    path
    for part in ("gserver", "loadtests", "benchmarks")
    for suffix in ("c", "h", "js", "j2", "go")
    for path in (ROOT / part).rglob(f"*.{suffix}")
]
#: Module or class -> names that read the wall clock.
READS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "strftime", "ctime", "asctime", "CLOCK_REALTIME", "CLOCK_TAI"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "loop": {"now", "periodic"},  # of libev
    "path": {"getctime", "getatime"},
}
IN_OTHERS = re.compile(r"Date\.now|new Date|gettimeofday|CLOCK_REALTIME|\btime\((?:NULL|0|&)")
#: Allowed readings, and the reason.
ALLOWED = {
    "gserver/arbiter/arbiter.py: time": "when the server started, and when a reload ended, for people and metrics",
    "gserver/arbiter/server_status.py: time": "when a reload ended, for people",
    "gserver/control/commands.py: time": "how long ago something was, for people",
    "gserver/control/socket_path.py: time": "the age of a file",
    "gserver/control/top.py: localtime": "the time on a screen",
    "gserver/control/top.py: strftime": "the time on a screen",
    "gserver/control/top.py: time": "the time on a screen",
    "gserver/worker/recording.py: now": "when a recording began, for people",
    "examples/device_gateway_load.py: time": "the time in a measurement of a device",
    "gserver/metrics/readings.py: now": "the time on a page",
    "gserver/testing/virtual_time.py: time": "the handlers of a Conversation read a clock that the test sets",
    "gserver/worker/imported_files.py: time": "times of changes of files are wall clock times",
    "gserver/process/access_records.py: strftime": "the time in a line of the access log",
    "gserver/tls/contexts.py: now": "expiry of a certificate is a calendar date",
    "loadtests/users/tcp_user.py: time": "Locust's event request carries the wall clock",
    "loadtests/locust_integration/compat.py: time": "Locust's statistics and CSV rows are by the wall clock",
    "loadtests/orchestration/runner.py: now": "the name of a run's folder, and when it took place",
    "loadtests/commands/ab.py: now": "the name of a folder",
}


def readings_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2].strip("_()").removeprefix("get_")
            if node.attr in READS.get(owner, ()):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (alias.name for alias in node.names if alias.name in READS["time"])


def test_all_readings_are_found(tmp_path: Path) -> None:
    source = """
from time import monotonic, time as clock
import datetime, time
def wrong(self, hub):
    return time.time_ns, datetime.datetime.now(), self._loop.now(), hub.loop.now, get_hub().loop.now()
def right(self):
    return time.monotonic(), self.now, self._turn.now, time.process_time(), loop.update_now()
"""
    (tmp_path / "module.py").write_text(source)

    assert sorted(readings_of(tmp_path / "module.py")) == ["now", "now", "now", "now", "time", "time_ns"]


def test_the_wall_clock_is_read_only_where_allowed() -> None:
    found = {f"{path.relative_to(ROOT)}: {name}" for path in PYTHON for name in readings_of(path)}
    found |= {f"{path.relative_to(ROOT)}: {word}" for path in OTHERS for word in IN_OTHERS.findall(path.read_text())}

    assert found == set(ALLOWED)


# A clock that is set back

LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* As many seconds as the file is long. */
static long behind(void) {
    struct stat file;
    return stat(getenv("CLOCK_BEHIND"), &file) ? 0 : file.st_size;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, which, now);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) now->tv_sec -= behind();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""
APP = """
import gevent, time
from gserver import Lines, Service

def answer(line, conn):
    if line == b"bye":
        conn.close()
    elif line == b"time":
        return b"%d" % time.time()
    elif line == b"sleep":
        gevent.sleep(0.1)
    return line

app = Service(answer, codec=Lines)
"""


class WallClock:
    """Controls the wall clock of processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler to build the clock library")
        (folder / "clock.c").write_text(LIBRARY)
        library, self._behind = folder / "clock.so", folder / "behind"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "clock.c"], check=True, timeout=60)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_BEHIND": str(self._behind)}
        self.set_back(1000)
        command = [sys.executable, "-c", "import time; print(time.time())"]
        shown = subprocess.run(command, env=self.environment, capture_output=True, check=True, timeout=60).stdout
        self.set_back(0)
        if time.time() - float(shown) < 900:
            pytest.skip("this interpreter does not read the time from libc, so its clock cannot be set back")

    def set_back(self, seconds: int) -> None:
        with self._behind.open("wb") as file:
            file.truncate(seconds)


def ask(server: GserverProcess, line: bytes) -> bytes:
    with server.connect() as sock:
        sock.sendall(line + b"\n")
        return sock.recv(100).strip()


def test_a_server_whose_clock_is_set_back_closes_and_stops_in_time(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    options = ("--idle-timeout", "1", "--first-byte-timeout", "1", "--graceful-timeout", "5", "-t", "4")
    with GserverProcess(tmp_path, *options, "app:app", environment=clock.environment) as server:
        (worker,) = server.serving_pids()
        descriptors = Path(f"/proc/{worker}/fd")
        assert abs(int(ask(server, b"time")) - time.time()) < 900
        wait_for(lambda: ask(server, b"x") == b"x", "it serves")
        at_rest = len(list(descriptors.iterdir()))
        idle = [server.connect() for _ in range(3)]
        lingering = [server.connect() for _ in range(3)]  # these clients do not close
        for sock in lingering:
            sock.sendall(b"bye\n")
            assert sock.recv(100) == b"bye\n"
        clock.set_back(3600)

        assert time.time() - int(ask(server, b"time")) > 900
        assert ask(server, b"sleep") == b"sleep"
        began = time.monotonic()
        assert [sock.recv(10) for sock in idle] == [b"", b"", b""]
        wait_for(lambda: len(list(descriptors.iterdir())) <= at_rest, "what lingers is closed")
        stopping = server.connect()
        stopping.sendall(b"bye\n")
        assert stopping.recv(100) == b"bye\n"
        server.signal(15)
        server.wait()
        assert time.monotonic() - began < 15
        assert "CRITICAL" not in server.log
        for sock in (*idle, *lingering, stopping):
            sock.close()
