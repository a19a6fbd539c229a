"""Two hosts behind HAProxy are restarted, upgraded, reloaded, recycled and drained, and no exchange is lost.

The hosts are network namespaces. What counts as a loss is defined in tests/helpers/verifying.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gserver.control.client import ControlClient, Unreachable
from tests.helpers.namespaces import Network, network
from tests.helpers.peers import HAProxy, haproxy, need
from tests.helpers.processes import PATIENCE_S, is_running, wait_for
from tests.helpers.verifying import Habits, VerifyingClients

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

pytestmark = [pytest.mark.long, need("haproxy")]

ROUNDS = 20
HOSTS = ("a", "b")
CTL = [sys.executable, "-c", "from gserver.control.cli import entry_point; entry_point()"]
FAREWELL = b"please connect again\n"
#: What is executed is written down before it is answered.
APP = """
import os, gevent
from gserver import Lines, Service

executed = os.open("executed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def answer(line, conn):
    if line.endswith(b"slow"):
        gevent.sleep(0.1)
    os.write(executed, line + b"\\n")
    return line + b" HOST VERSION"

def leave(conn):
    conn.send(b"please connect again")

app = Service(answer, Lines, ON_DRAIN)
"""
#: Connections of one exchange, of some, and of as many as the server allows; and idle clients. With pauses of 6 s a
#: client also sends when the server has closed the socket, 2 s after the end that the client has not looked at.
HABITS = [
    *[Habits(1), Habits(5), Habits(50), Habits(), Habits(looks=False)] * 2,
    *[Habits(longest_pause_s=6.0), Habits(longest_pause_s=6.0, looks=False)] * 4,
]
#: Without retries HAProxy hides no failed connect. Two failed checks take 0.2 s, and shutdown_delay is 3 s.
BALANCER = """
listen service
    bind {front}
    balance roundrobin
    retries 0
    timeout check 10s
    option httpchk GET /readyz
"""
#: Connects and replies that failed, and connects that were tried again.
NO_ERRORS = {"econ": "0", "eresp": "0", "wretr": "0", "wredis": "0"}
SERVER = "    server %s %s:3000 send-proxy-v2 check port 9110 inter 100ms fall 2 rise 2\n"
CONFIG = """
bind = "{address}:3000"
workers = 2
proxy_protocol = "v2"
proxy_allow_ips = ["{proxy}"]
metrics_bind = "{address}:9110"
control_socket = "{folder}/ctl"
reload_settle = 0.2
shutdown_delay = 3
drain_spread = 0.5
graceful_timeout = 20
"""


class Host:
    """A host with a server, which can be started again and again."""

    def __init__(self, net: Network, name: str, folder: Path, says_farewell: bool) -> None:
        self.name = name
        self._net = net
        self._folder = folder / name
        self._folder.mkdir()
        self._path = str(self._folder / "ctl")
        self._log_path = self._folder / "log"
        self._on_drain = "on_drain=leave" if says_farewell else ""
        self._version = 0
        self.change_app()
        address, proxy = net.address(name), net.address("proxy")
        config = CONFIG.format(address=address, proxy=proxy, folder=self._folder)
        (self._folder / "conf.py").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def identity(self) -> str:
        """What the replies of the newest application contain."""
        return f"{self.name} {self._version}"

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def executed(self) -> list[bytes]:
        return (self._folder / "executed").read_bytes().splitlines()

    def change_app(self) -> None:
        self._version += 1
        text = APP.replace("HOST VERSION", self.identity).replace("ON_DRAIN", self._on_drain)
        (self._folder / "app.py").write_text(text)

    def start(self) -> None:
        command = self._net.command(self.name, sys.executable, "-m", "gserver", "app:app", "-c", "conf.py")
        with self._log_path.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=output, stderr=output)
        wait_for(lambda: self.status().get("ready", False), f"the server of {self.name} is ready")

    def status(self) -> dict[str, Any]:
        """The state of the server; nothing while it has no control socket."""
        assert self._process is None or self._process.poll() in (None, 0), self.log
        try:
            return self.call("status")
        except Unreachable:
            return {}

    def call(self, command: str) -> dict[str, Any]:
        with ControlClient(self._path) as client:
            return client.call(command)

    def ctl(self, *arguments: str) -> str:
        """Run gserverctl, which has to succeed."""
        command = [*CTL, "-s", self._path, *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
        assert (finished.returncode, finished.stderr) == (0, ""), f"{finished}\n{self.log}"
        return finished.stdout

    def terminate(self) -> None:
        """Send TERM, and wait for the end."""
        pid = self.status()["pid"]
        os.kill(pid, signal.SIGTERM)
        self.wait_for_end(pid)

    def wait_for_end(self, pid: int) -> None:
        if self._process is not None and self._process.pid == pid:
            assert self._process.wait(PATIENCE_S) == 0, self.log
            self._process = None
        wait_for(lambda: not is_running(pid), f"process {pid} of {self.name} has ended")

    def close(self) -> None:
        """Stop the server, and check that no process of it is left; kill what is left."""
        try:
            status = self.status()
            if status:
                self.terminate()
            wait_for(lambda: not self._net.pids(self.name), f"no process of {self.name} is left")
        finally:
            for pid in self._net.pids(self.name):
                os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.wait(PATIENCE_S)


class Field:
    """Two hosts behind HAProxy, and what can be done with each of them under load."""

    def __init__(self, hosts: list[Host], proxy: HAProxy, clients: VerifyingClients) -> None:
        self._proxy = proxy
        self.hosts = hosts
        self.clients = clients

    def restart(self, host: Host) -> None:
        """Take the host out by hand, stop it, and start it again."""
        host.ctl("ready", "off")
        self.wait_until(host, "DOWN")
        pid = host.status()["pid"]
        host.ctl("stop")
        host.wait_for_end(pid)
        self._start(host)

    def drain(self, host: Host) -> None:
        """Send TERM without a word to HAProxy: it notices in the shutdown_delay."""
        host.terminate()
        self._start(host)

    def reload(self, host: Host) -> None:
        failed = self._failed_checks(host)
        host.change_app()
        host.ctl("reload")
        self._wait_for_replies(host)
        assert self._failed_checks(host) == failed, "HAProxy must not notice a reload"

    def upgrade(self, host: Host) -> None:
        failed, before = self._failed_checks(host), host.status()["pid"]
        host.change_app()
        host.ctl("upgrade")
        host.wait_for_end(before)
        assert host.status()["pid"] != before
        self._wait_for_replies(host)
        assert self._failed_checks(host) == failed, "HAProxy must not notice an upgrade"

    def recycle(self, host: Host) -> None:
        """Replace each worker by a new one."""
        for row in host.call("workers")["rows"]:
            if row["state"] == "serving":
                host.ctl("workers", "restart", str(row["pid"]))
                host.wait_for_end(row["pid"])
        self.wait_until(host, "UP")

    def check_proxy(self) -> None:
        """Check that HAProxy had no error of a connection to a server, and hid none."""
        for host in self.hosts:
            columns = self._proxy.statistics()[host.name]
            assert {name: columns[name] for name in NO_ERRORS} == NO_ERRORS

    def wait_until(self, host: Host, state: str) -> None:
        wait_for(lambda: self._proxy.statistics()[host.name]["status"] == state, f"{host.name} is {state}")

    def _start(self, host: Host) -> None:
        host.change_app()
        host.start()
        self.wait_until(host, "UP")
        self._wait_for_replies(host)

    def _wait_for_replies(self, host: Host) -> None:
        wait_for(lambda: self.clients.answered_by[host.identity] > 20, f"{host.identity} serves; {self.clients.losses}")

    def _failed_checks(self, host: Host) -> int:
        return int(self._proxy.statistics()[host.name]["chkfail"])


Action = Callable[[Field, Host], None]
ACTIONS: tuple[Action, ...] = (Field.restart, Field.upgrade, Field.reload, Field.recycle, Field.drain)


@contextmanager
def field(folder: Path, *, says_farewell: bool) -> Iterator[Field]:
    with network("proxy", *HOSTS) as net, ExitStack() as stack:
        hosts = [Host(net, name, folder, says_farewell) for name in HOSTS]
        for host in hosts:
            stack.callback(host.close)
            host.start()
        servers = "".join(SERVER % (name, net.address(name)) for name in HOSTS)
        proxy = stack.enter_context(haproxy(folder, BALANCER + servers, prefix=net.command("proxy")))
        clients = VerifyingClients(proxy.address, HABITS, FAREWELL if says_farewell else None)
        made = Field(hosts, proxy, clients)
        for host in hosts:
            made.wait_until(host, "UP")
        with clients:
            yield made
        made.check_proxy()


def check(made: Field) -> None:
    """Check that nothing was lost, and that each request was executed exactly once, on whichever host."""
    clients = made.clients
    executed = Counter(payload for host in made.hosts for payload in host.executed())
    print(f"{clients.exchanges} exchanges, {clients.crossed} sent again, connections closed: {dict(clients.ends)}")

    assert clients.losses == []
    assert set(executed) == clients.payloads
    assert set(executed.values()) == {1}
    for host in made.hosts:
        assert not re.search("Traceback|ERROR|CRITICAL|KILL|reset", host.log), host.log


@pytest.mark.parametrize(
    ("actions", "says_farewell"),
    [
        ((Field.restart, Field.upgrade), False),
        pytest.param((Field.reload, Field.recycle, Field.drain), True, marks=pytest.mark.longhaul),
    ],
    ids=["restart and upgrade", "reload, recycle and drain, with a farewell"],
)
def test_no_exchange_is_lost(tmp_path: Path, actions: tuple[Action, ...], says_farewell: bool) -> None:
    with field(tmp_path, says_farewell=says_farewell) as made:
        for action in actions:
            for host in made.hosts:
                action(made, host)
    check(made)
    assert set(made.clients.ends) == {"farewell" if says_farewell else "no farewell"}


@pytest.mark.longhaul
@pytest.mark.parametrize("says_farewell", [False, True], ids=["", "farewell"])
def test_no_exchange_is_lost_in_many_rounds(tmp_path: Path, says_farewell: bool) -> None:
    with field(tmp_path, says_farewell=says_farewell) as made:
        for number in range(ROUNDS):
            for host in made.hosts:
                ACTIONS[number % len(ACTIONS)](made, host)
            assert made.clients.losses == [], f"in round {number}"
    check(made)
