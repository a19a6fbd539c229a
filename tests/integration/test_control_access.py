"""Who reaches the control socket: users without rights do not, neither by its path nor from a worker that they run."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gserver.client import Client
from gserver.codecs import Lines
from gserver.control import cli
from gserver.control.client import ControlClient
from tests.helpers.early_imports import EARLY_IMPORTS
from tests.helpers.processes import GserverProcess, wait_for
from tests.helpers.scraping import metrics_pid, sockets_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

#: An application that tries to reach the control socket of its own server, and replies with the error.
CURIOUS = """
import errno, os
from gevent import socket
from gserver import Lines, Service

def answer(path, conn):
    with socket.socket(socket.AF_UNIX) as client:
        return f"{os.geteuid()} {errno.errorcode.get(client.connect_ex(path.decode()))}".encode()

app = Service(answer, Lines)
"""


@dataclass(frozen=True)
class User:
    """A user who has no account here, and so no rights that somebody gave it."""

    number: int
    group: int
    groups: Sequence[int] = ()


STRANGER = User(61_234, 61_234)
OWNER = User(61_235, 61_235)
MEMBER = User(61_236, 61_236, (61_240,))
#: In the group by its own group, as the user of a service is.
SERVICE = User(61_237, 61_240)
GROUP = 61_240


def run_as(user: User, action: Callable[[], int]) -> tuple[int, str]:
    """Run `action` in a process of this user; return its result, which becomes the exit status, and what it printed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups(user.groups)
            os.setresgid(user.group, user.group, user.group)
            os.setresuid(user.number, user.number, user.number)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            status = action()
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as output:
        printed = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed


def connect_error(user: User, path: str) -> str | None:
    """The name of the error with which a connect to the socket fails for this user; None if it succeeds."""

    def connect() -> int:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(path)

    status, _ = run_as(user, connect)
    return errno.errorcode.get(status)


def status_as(user: User, path: str) -> tuple[int, str]:
    """What `gserverctl status` returns and prints for this user. Nothing has to be imported as that user."""

    def status() -> int:
        with open(1, "w", closefd=False) as output, open(2, "w", closefd=False) as errors:
            sys.stdout, sys.stderr = output, errors
            return cli.main(["-s", path, "status"])

    return run_as(user, status)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter and list."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def serve(folder: Path, *arguments: str, app: str = "echo") -> GserverProcess:
    return GserverProcess(folder, app, "--pid", "gserver.pid", *arguments)


def test_nobody_but_root_reaches_the_default_socket_of_root(folder: Path) -> None:
    with serve(folder) as server:
        path = f"/run/gserver/{server.process.pid}.ctl"
        with ControlClient(path) as client:
            assert client.call("status")["pid"] == server.process.pid
        assert connect_error(STRANGER, path) == "EACCES"
        os.chmod(path, 0o666)
        assert connect_error(STRANGER, path) == "EACCES", "the folder alone keeps others away"
        status, _ = run_as(STRANGER, lambda: len(os.listdir("/run/gserver")))
        assert status == 99, "others do not even see which servers there are"


def test_an_explicit_path_is_for_its_owner_alone_by_default(folder: Path) -> None:
    path = str(folder / "ctl")
    with serve(folder, "--control-socket", path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert connect_error(STRANGER, path) == "EACCES"
        status, printed = status_as(STRANGER, path)

    assert (status, printed) == (3, f"gserverctl: control socket {path!r} cannot be used: Permission denied\n")


OPENED: dict[str, tuple[str, set[User]]] = {
    "group": (f"mode=660,group={GROUP}", {MEMBER, SERVICE}),
    "group without a mode": (f"group={GROUP}", set()),
    "user": (f"user={OWNER.number}", {OWNER}),
    "user and group": (f"mode=660,user={OWNER.number},group={GROUP}", {OWNER, MEMBER, SERVICE}),
    "all": ("mode=666", {STRANGER, OWNER, MEMBER, SERVICE}),
    "to read is not enough": ("mode=644", set()),
}


@pytest.mark.parametrize("name", OPENED)
def test_mode_user_and_group_open_it_for_those_alone(folder: Path, name: str) -> None:
    options, allowed = OPENED[name]
    path = str(folder / "ctl")
    with serve(folder, "--control-socket", f"{path},{options}"):
        for user in (STRANGER, OWNER, MEMBER, SERVICE):
            assert connect_error(user, path) == (None if user in allowed else "EACCES"), user
            if user in allowed:
                status, printed = status_as(user, path)
                assert (status, "1 of 1 serve" in printed) == (0, True), printed


def test_both_sockets_of_an_upgrade_are_as_closed_as_the_first(folder: Path) -> None:
    path = str(folder / "ctl")
    with serve(folder, "--control-socket", f"{path},mode=660,group={GROUP}") as server:
        server.signal(signal.SIGUSR2)
        wait_for((folder / "ctl.2").exists, "the new arbiter has its socket")
        server.wait_for_log("Worker ready", 2)
        for each in (path, f"{path}.2"):
            assert (connect_error(STRANGER, each), connect_error(MEMBER, each)) == ("EACCES", None)
        with ControlClient(f"{path}.2") as client:
            new = client.call("status")["pid"]
        server.signal(signal.SIGTERM)
        server.wait()
        wait_for(lambda: not (folder / "ctl.2").exists(), "the new arbiter has taken over the path")
        assert (connect_error(STRANGER, path), connect_error(MEMBER, path)) == ("EACCES", None)
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not (folder / "gserver.pid").exists(), "it has ended")


def listening_unix_sockets(pid: int) -> set[str]:
    """Those that a process has open, as they are called in its table: 'socket:[INODE]'."""
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()]
    return sockets_of(pid) & {f"socket:[{row[6]}]" for row in rows if row[3] == "00010000"}


def test_the_code_of_a_worker_without_rights_cannot_reach_it(folder: Path) -> None:
    """Neither does the worker have its descriptor, nor may it connect. The same holds for the metrics process."""
    pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")
    (folder / "app.py").write_text(CURIOUS)
    path = str(folder / "ctl")
    (folder / "conf.py").write_text(EARLY_IMPORTS)
    rights = ("-c", "conf.py", "--user", "nobody", "--group", "nogroup")
    given = ("--control-socket", path, "--metrics-bind", "127.0.0.1:0", *rights)
    with serve(folder, *given, app="app:app") as server:
        server.wait_for_log("Metrics process ready")
        with Client(server.address, Lines()) as client:
            answer = client.call(path.encode())
        assert len(listening_unix_sockets(server.process.pid)) == 1
        for pid in (metrics_pid(server), *server.serving_pids()):
            assert listening_unix_sockets(pid) == set()

    assert answer == f"{pwd.getpwnam('nobody').pw_uid} EACCES".encode()
