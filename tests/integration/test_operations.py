"""Every configuration of docs/operations.md, executed: by systemd, HAProxy, nginx, and a server with a pod's probes.

The runbook at its end is played in test_runbook.py. Prometheus reads its configuration and rules in test_prometheus.py;
logrotate rotates in test_log_files.py; several ports are served in test_listeners.py. Addresses, ports and folders are
replaced by those of the test, nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from gserver.arbiter.worker_timeouts import KILL_GRACE_S
from gserver.cli import main
from gserver.client import Client
from gserver.codecs import JsonLines, Lines
from gserver.config.settings import Settings
from gserver.config.sources import parse_environment
from gserver.process.open_files import BESIDE_CONNECTIONS
from loadtests.host.subprocesses import free_port
from tests.helpers.peers import HAProxy, need, path_of, started
from tests.helpers.ports import NamedPorts
from tests.helpers.processes import PATIENCE_S, GserverProcess, run_gserver, wait_for
from tests.helpers.runbook import GSERVERCTL, PAGE
from tests.helpers.scraping import metrics_address, request
from tests.helpers.service_manager import ServiceManager, missing_for_a_manager

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CONFIGURATIONS, _, _ = PAGE.read_text("utf-8").partition("\n## Runbook\n")
WHO = """
from gserver import Lines, Service
app = Service(lambda line, conn: str(conn).encode(), Lines)
"""
ECHO = "from gserver import Lines, Service\napi = Service(lambda line, conn: line, Lines)\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", CONFIGURATIONS, re.M | re.S)


def section(heading: str) -> str:
    (text,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", CONFIGURATIONS, re.M | re.S)
    return str(text)


def commands_of(heading: str) -> list[str]:
    (block,) = re.findall(r"^```console\n(.*?)^```", section(heading), re.M | re.S)
    return [line.removeprefix("$ ") for line in block.splitlines()]


def seconds_to_stop(settings: Settings) -> float:
    return settings.shutdown_delay + settings.longest_drain_s + KILL_GRACE_S


def gserverctl(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*GSERVERCTL, "-s", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def exchange(address: tuple[str, int], line: bytes = b"hello") -> bytes:
    with Client(address, Lines()) as client:
        reply = client.call(line)
    assert isinstance(reply, bytes)
    return reply


# The page


@pytest.mark.parametrize(
    ("language", "path"),
    [("yaml", "kubernetes/gserver.yaml"), ("haproxy", "haproxy/haproxy.cfg"), ("nginx", "nginx/nginx.conf")],
)
def test_the_page_shows_the_example_to_the_letter(language: str, path: str) -> None:
    assert blocks(language) == [(EXAMPLES / path).read_text()]


def test_each_block_of_the_page_is_executed_by_a_test() -> None:
    """A new block needs a test here."""
    languages = re.findall(r"^```(\w*)\n", CONFIGURATIONS, re.M)

    assert [each for each in languages if each] == [
        "python",
        "console",
        *("python", "python", "console"),  # several ports: test_listeners.py
        "console",
        "yaml",
        "haproxy",
        "console",
        "nginx",
    ]


def test_the_service_of_the_page_tells_its_clients_that_it_goes_away(tmp_path: Path) -> None:
    block = blocks("python")[0]
    (tmp_path / "app.py").write_text(f"from gserver import JsonService\n{block}")
    with GserverProcess(tmp_path, "app:app") as server, Client(server.address, JsonLines()) as client:
        client.call({"type": "unknown"})
        server.signal(signal.SIGTERM)
        assert client.recv() == {"type": "GOING_AWAY", "reason": "drained"}


# systemd


class Service:
    """The units of examples/systemd, run by a systemd of this test."""

    def __init__(self, manager: ServiceManager) -> None:
        self.manager, self.folder = manager, manager.folder
        self.port = free_port()
        program = self.folder / "venv/bin/gserver"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec {sys.executable} -m gserver "$@"\n')
        program.chmod(0o755)
        (self.folder / "gserver.conf.py").write_text("workers = 2\ndrain_spread = 0\n")
        (self.folder / "myapp.py").write_text(ECHO)
        self.control = self.folder / "run/gserver/ctl"
        for name in ("gserver.socket", "gserver.service"):
            manager.install(name, self._adapted((EXAMPLES / "systemd" / name).read_text()))

    def _adapted(self, text: str) -> str:
        text = text.replace("/srv/myapp", str(self.folder)).replace("/run/gserver", str(self.folder / "run/gserver"))
        text = text.replace("0.0.0.0:3001", f"127.0.0.1:{self.port}")
        # A user's systemd can neither make users nor hide folders.
        return re.sub(r"^(DynamicUser|ProtectSystem|PrivateTmp|NoNewPrivileges)=.*\n", "", text, flags=re.M)

    def gserverctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        script = f'cd {ROOT} && exec "$@"'
        return self.manager.inside("sh", "-c", script, "sh", *GSERVERCTL, "-s", str(self.control), *words)

    def show(self, name: str) -> str:
        return self.manager.show("gserver.service", name)

    def exchange(self) -> bytes:
        return exchange(("127.0.0.1", self.port))


@pytest.fixture
def systemd() -> Iterator[ServiceManager]:
    missing = missing_for_a_manager()
    if missing is not None:
        pytest.skip(missing)
    with ServiceManager() as manager:
        yield manager


def test_systemd_starts_reloads_upgrades_and_stops_the_units(systemd: ServiceManager) -> None:
    service = Service(systemd)
    copy, enable, reload = commands_of("systemd")
    assert copy == "cp gserver.service gserver.socket /etc/systemd/system/ && systemctl daemon-reload"
    systemd.call(*shlex.split(enable)[1:])
    assert service.exchange() == b"hello"
    assert service.gserverctl("status").returncode == 0

    (service.folder / "myapp.py").write_text(ECHO.replace("line, Lines", "line.upper(), Lines"))
    systemd.call(*shlex.split(reload)[1:])
    assert service.exchange() == b"HELLO"
    (service.folder / "myapp.py").write_text("1 / 0\n")
    assert systemd.run(*shlex.split(reload)[1:]).returncode != 0
    assert service.exchange() == b"HELLO"
    (service.folder / "myapp.py").write_text(ECHO)

    first = service.show("MainPID")
    upgraded = service.gserverctl("upgrade")
    assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
    wait_for(lambda: service.show("MainPID") not in (first, "0"), "the new arbiter is the main process")
    assert service.exchange() == b"hello"
    assert service.gserverctl("status").returncode == 0

    systemd.call("stop", "gserver.service")
    assert (service.show("ActiveState"), service.show("Result"), service.show("NRestarts")) == (
        "inactive",
        "success",
        "0",
    )
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_S) as waiting:  # the socket unit has it
        waiting.sendall(b"again\n")
        assert waiting.makefile("rb").readline() == b"again\n"


def test_the_journal_has_the_line_in_which_a_worker_of_the_units_crashed(systemd: ServiceManager) -> None:
    service = Service(systemd)
    shutil.copy(EXAMPLES / "trouble.py", service.folder / "myapp.py")
    with (service.folder / "myapp.py").open("a") as file:
        file.write("api = app\n")
    systemd.start_journal()
    systemd.call("enable", "--now", "gserver.socket", "gserver.service")
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_S) as client:
        client.sendall(b"crash\n")
        assert client.recv(10) == b""

    def messages() -> list[str]:
        return [str(entry.get("MESSAGE")) for entry in systemd.journal()]

    wait_for(
        lambda: any(re.search(r"myapp.py\", line \d+ in crash", each) for each in messages()), "the line of Python"
    )
    assert any("Worker exited with signal SIGSEGV" in each for each in messages())


# Docker

DOCKERFILE = (EXAMPLES / "Dockerfile").read_text()


def test_the_image_can_be_built(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker daemon runs here")
    (build, *_) = commands_of("Docker")
    subprocess.run(shlex.split(build), cwd=ROOT, check=True, timeout=900)


def test_the_image_builds_a_wheel_with_the_extras_that_its_commands_need(tmp_path: Path) -> None:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("there is no pip beside this interpreter")
    (command,) = re.findall(r"^RUN pip (wheel .*)$", DOCKERFILE, re.M)
    source, wheels = tmp_path / "src", tmp_path / "wheels"
    ignored = shutil.ignore_patterns(".git", "*.so", "build", "results", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    words = shlex.split(command.replace('"/src', f'"{source}').replace("/wheels", str(wheels)))
    # The packages that it needs are those of this interpreter: nothing is downloaded.
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    made = subprocess.run(
        [sys.executable, "-m", "pip", *words, *offline], capture_output=True, text=True, timeout=600, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = wheels.glob("*.whl")
    assert not wheel.name.endswith("none-any.whl")  # with the compiled message loop
    extras = re.search(r"\[(.*)\]", command)
    assert extras is not None
    assert {"extras", "metrics"} <= set(extras[1].split(","))


def test_the_command_of_the_image_serves_is_healthy_and_stops_in_time(tmp_path: Path) -> None:
    environment = dict(re.findall(r'^ENV (\w+)=(?:"(.*)"|\w+)$', DOCKERFILE, re.M))
    environment["GSERVER_CMD_ARGS"] = environment["GSERVER_CMD_ARGS"].replace("/tmp/", f"{tmp_path}/")
    command, arguments = (json.loads(each) for each in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", DOCKERFILE, re.M))
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.M)
    assert command == ["gserver"]
    run = [sys.executable, "-m", "gserver", *arguments]
    run[run.index("0.0.0.0:3001")] = "127.0.0.1:0"
    with GserverProcess(tmp_path, command=run, environment=environment, workers=2) as server:
        _, *healthy = json.loads(check.replace("/tmp/", f"{tmp_path}/"))
        assert run_gserver(*healthy).returncode == 0
        _, _, look = commands_of("Docker")
        _, _, _, program, _, path, *words = shlex.split(look)
        assert program == "gserverctl"
        assert gserverctl(Path(path.replace("/tmp", str(tmp_path))), *words).returncode == 0
        with Client(server.address, JsonLines()) as client:
            assert client.call({"type": "SUM", "a": 1, "b": 2}) == {"status": "OK", "result": 3}
            server.signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
    settings = Settings.checked(parse_environment({"GSERVER_CMD_ARGS": environment["GSERVER_CMD_ARGS"]}))
    assert seconds_to_stop(settings) < 10


def test_docker_run_of_the_page_allows_the_time_of_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    _, run, _ = commands_of("Docker")
    options, _, arguments = run.partition(" myapp ")
    (allowed,) = re.findall(r"--stop-timeout (\d+)", options)
    assert main(["--print-config", *shlex.split(arguments)]) == 0
    shown = dict(line.split(" = ", 1) for line in capsys.readouterr().out.splitlines())

    assert seconds_to_stop(Settings.checked({"graceful_timeout": shown["graceful_timeout"]})) < int(allowed)


# Kubernetes

DEPLOYMENT, SERVICE, BUDGET = yaml.safe_load_all((EXAMPLES / "kubernetes/gserver.yaml").read_text())
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def pod_settings(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["--print-config", *CONTAINER["args"]]) == 0
    return dict(line.split(" = ", 1) for line in capsys.readouterr().out.splitlines())


def test_the_parts_of_the_deployment_fit_together(capsys: pytest.CaptureFixture[str]) -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    settings = pod_settings(capsys)

    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert SERVICE["spec"]["selector"] == labels
    assert BUDGET["spec"]["selector"]["matchLabels"] == labels
    assert settings["bind"] == f"0.0.0.0:{ports['service']}"
    assert settings["metrics_bind"] == f"0.0.0.0:{ports['metrics']}"
    assert {port["targetPort"] for port in SERVICE["spec"]["ports"]} <= set(ports)
    probes = [CONTAINER[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["httpGet"]["port"] for probe in probes} <= set(ports)
    (mount,) = CONTAINER["volumeMounts"]
    assert settings["control_socket"].startswith(f"unix:{mount['mountPath']}/")
    assert [volume["name"] for volume in POD["volumes"]] == [mount["name"]]
    assert 0 < BUDGET["spec"]["maxUnavailable"] < DEPLOYMENT["spec"]["replicas"]


def test_the_pod_stops_before_kubernetes_kills_it_and_no_probe_restarts_a_slow_worker(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = pod_settings(capsys)
    settings = Settings.checked({name: shown[name] for name in ("shutdown_delay", "graceful_timeout", "drain_spread")})
    alive, ready = CONTAINER["livenessProbe"], CONTAINER["readinessProbe"]

    assert seconds_to_stop(settings) < POD["terminationGracePeriodSeconds"]
    assert alive["periodSeconds"] * (alive["failureThreshold"] - 1) > settings.timeout
    assert (ready["periodSeconds"] + ready["timeoutSeconds"]) * ready["failureThreshold"] <= settings.shutdown_delay
    assert "lifecycle" not in CONTAINER


def test_the_probes_of_the_pod_follow_a_server_through_its_life(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")
    (tmp_path / "myapp.py").write_text(ECHO)
    replaced = {"0.0.0.0:3001": "127.0.0.1:0", "0.0.0.0:9110": "127.0.0.1:0", "/run/gserver/ctl": f"{tmp_path}/ctl"}
    arguments = [replaced.get(each, each) for each in CONTAINER["args"]]
    with GserverProcess(tmp_path, *arguments, bind=None, workers=None, ready="Worker ready") as server:
        address = metrics_address(server)

        def answers(kind: str) -> int:
            return request(address, CONTAINER[f"{kind}Probe"]["httpGet"]["path"]).status

        wait_for(lambda: answers("startup") == 200, "it has started")
        assert (answers("readiness"), answers("liveness")) == (200, 200)
        assert gserverctl(tmp_path / "ctl", "ready", "off").returncode == 0
        assert (answers("readiness"), answers("liveness")) == (503, 200)
        assert gserverctl(tmp_path / "ctl", "ready", "on").returncode == 0
        server.signal(signal.SIGTERM)
        wait_for(lambda: answers("readiness") == 503, "TERM takes it out at once")
        assert answers("liveness") == 200
        assert exchange(server.address) == b"hello"  # during shutdown_delay
        server.signal(signal.SIGTERM)  # ends the delay
        assert server.wait() == 0


# Load balancers


def command_in(configuration: str) -> list[str]:
    """The arguments of the gserver command in the comment at the beginning of a configuration."""
    comment = "\n".join(re.findall(r"^# ?(.*)$", configuration, re.M)).replace("\\\n", " ")
    (command,) = re.findall(r"^ +gserver (.*)$", comment, re.M)
    return shlex.split(command)


class Host:
    """A gserver that is started as the configuration of a proxy shows, again at the same port after a stop."""

    def __init__(self, folder: Path, configuration: str, *more: str) -> None:
        folder.mkdir()
        (folder / "myapp.py").write_text(WHO.replace("app =", "api ="))
        ports = NamedPorts()
        self.folder, self.port, self.metrics = folder, ports["service"], ports["metrics"]
        self.control = folder / "ctl"
        replaced = {
            "10.0.0.1:3000": f"127.0.0.1:{self.port}",
            "10.0.0.1:9110": f"127.0.0.1:{self.metrics}",
            "10.0.0.9": "127.0.0.1",
        }
        self._arguments = [replaced.get(each, each) for each in command_in(configuration)]
        self._arguments += ["--control-socket", str(self.control), *more]

    def start(self) -> GserverProcess:
        return GserverProcess(self.folder, *self._arguments, bind=None)

    def ctl(self, *words: str) -> None:
        ended = gserverctl(self.control, *words)
        assert ended.returncode == 0, ended.stderr


def served_by(front: tuple[str, int], source: str = "127.0.0.77") -> str:
    """Make one exchange through the proxy, and check that the server knows the address of the client."""
    with (
        socket.create_connection(front, PATIENCE_S, (source, 0)) as client,
        client.makefile("rb") as replies,
    ):
        client.sendall(b"who\n")
        reply = replies.readline().decode()
    assert reply.startswith(f"{source}:"), reply
    return reply


@need("haproxy")
def test_haproxy_accepts_the_configuration() -> None:
    path = path_of("haproxy")
    assert path is not None
    command = [path, "-c", "-f", str(EXAMPLES / "haproxy/haproxy.cfg")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert (ended.returncode, "warning" in ended.stderr.lower()) == (0, False), ended.stderr


@need("haproxy")
def test_no_client_notices_a_restart_of_all_hosts_behind_haproxy(tmp_path: Path) -> None:
    """Also without a shutdown_delay, because `ready off` comes first."""
    pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")
    text = (EXAMPLES / "haproxy/haproxy.cfg").read_text()
    one, two = hosts = [Host(tmp_path / name, text, "--shutdown-delay", "0") for name in ("one", "two")]
    with ExitStack() as stack:
        front = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        adapted = text.replace("/run/haproxy/admin.sock", str(tmp_path / "admin")).replace("inter 2s", "inter 100ms")
        adapted = adapted.replace("maxconn 40000", "maxconn 400")  # this machine may not allow as many open files
        adapted = adapted.replace("bind 0.0.0.0:3001", f"bind fd@{front.fileno()}").replace(
            "check port 9110 ", "check "
        )
        for address, host in (("10.0.0.1:3000", one), ("10.0.0.2:3000", two)):
            adapted = adapted.replace(address, f"127.0.0.1:{host.port} port {host.metrics}")
        (tmp_path / "haproxy.cfg").write_text(adapted)
        servers = {host.port: stack.enter_context(host.start()) for host in hosts}
        command = ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")]
        stack.enter_context(started(command, tmp_path, (tmp_path / "admin").exists, [front.fileno()]))
        proxy = HAProxy(front.getsockname(), tmp_path / "admin")

        def is_up(name: str) -> bool:
            return proxy.statistics()[name]["status"].startswith("UP")

        wait_for(lambda: is_up("one") and is_up("two"), "both are up")
        wait_for(lambda: proxy.statistics()["one"]["check_status"] == "L7OK", "the first check has succeeded")
        for name, host in (("one", one), ("two", two)):
            for step in commands_of("HAProxy"):
                program, *words = shlex.split(step)
                if program == "gserverctl":
                    host.ctl(*words)
                    if words == ["stop"]:
                        assert servers[host.port].wait() == 0
                elif program == "systemctl":
                    servers[host.port] = stack.enter_context(host.start())
                else:  # the pause: here until HAProxy has noticed
                    is_expected_up = servers[host.port].process.poll() is None and request_ready(host)
                    wait_for(lambda: is_up(name) == is_expected_up, "HAProxy has noticed")  # noqa: B023
                for _ in range(5):
                    served_by(proxy.address)
        assert proxy.statistics()["BACKEND"]["econ"] == "0"


def request_ready(host: Host) -> bool:
    return request(("127.0.0.1", host.metrics), "/readyz").status == 200


@need("haproxy")
def test_the_pauses_of_the_page_and_the_shutdown_delay_are_as_long_as_haproxy_needs() -> None:
    text = (EXAMPLES / "haproxy/haproxy.cfg").read_text()
    (inter_s, fall), (check_s,) = (
        *re.findall(r"inter (\d+)s fall (\d+)", text),
        re.findall(r"timeout check (\d+)s", text),
    )
    longest_s = int(fall) * (int(inter_s) + int(check_s))
    pauses = [float(step.split()[1]) for step in commands_of("HAProxy") if step.startswith("sleep")]
    arguments = command_in(text)

    assert all(pause_s >= longest_s for pause_s in pauses)
    assert pauses
    assert float(arguments[arguments.index("--shutdown-delay") + 1]) >= longest_s
    assert all(int(each) > Settings().idle_timeout for each in re.findall(r"timeout (?:client|server) (\d+)s", text))


@need("nginx")
def test_nginx_passes_clients_to_the_host_that_is_left(tmp_path: Path) -> None:
    text = (EXAMPLES / "nginx/nginx.conf").read_text()
    path = path_of("nginx")
    assert path is not None
    checked = subprocess.run(
        [path, "-t", "-e", "stderr", "-g", f"pid {tmp_path}/pid;", "-c", str(EXAMPLES / "nginx/nginx.conf")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    one, two = hosts = [Host(tmp_path / name, text) for name in ("one", "two")]
    with ExitStack() as stack:
        servers = [stack.enter_context(host.start()) for host in hosts]
        front = ("127.0.0.1", free_port())
        adapted = text.replace("0.0.0.0:3001", f"{front[0]}:{front[1]}")
        for address, host in (("10.0.0.1:3000", one), ("10.0.0.2:3000", two)):
            adapted = adapted.replace(address, f"127.0.0.1:{host.port}")
        # Only for the test: the folder of the process, and one process.
        own = f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log stderr;\n"
        (tmp_path / "nginx.conf").write_text(own + adapted)
        command = ["nginx", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
        stack.enter_context(started(command, tmp_path, (tmp_path / "nginx.pid").exists))
        for _ in range(6):
            served_by(front)
        one.ctl("stop")
        assert servers[0].wait() == 0
        for _ in range(6):
            served_by(front)
    assert int(re.findall(r"proxy_timeout (\d+)s", text)[0]) > Settings().idle_timeout


# Prometheus, releases, sizing


def test_prometheus_scrapes_the_address_of_the_page() -> None:
    (address,) = re.findall(r"--metrics-bind (\S+) APP", section("Prometheus and alerts"))
    configuration = yaml.safe_load((EXAMPLES / "prometheus/prometheus.yml").read_text())

    assert configuration["scrape_configs"][0]["static_configs"] == [{"targets": [address]}]


def test_the_command_of_the_page_changes_the_release(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    (ln .*)$", section("Releases in folders"), re.M)
    for name, source in (("41", ECHO), ("42", ECHO.replace("line, Lines", "line.upper(), Lines"))):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "myapp.py").write_text(source)
    (tmp_path / "current").symlink_to("releases/41")
    pidfile = str(tmp_path / "gserver.pid")
    with GserverProcess(tmp_path, "myapp:api", "--chdir", str(tmp_path / "current"), "--pid", pidfile) as server:
        assert exchange(server.address) == b"hello"
        adapted = command.replace("/run/myapp/gserver.pid", pidfile).replace(
            "gserver --", f"{sys.executable} -m gserver --"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(["sh", "-c", adapted], cwd=tmp_path, check=True, timeout=PATIENCE_S, env=environment)
        assert exchange(server.address) == b"HELLO"


UNITS = {"us": 1e-6, "s": 1.0, "bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


def sums() -> list[str]:
    return re.findall(r"^    (.+ = .+)$", section("Sizing"), re.M)


def value_of(text: str) -> float:
    """Compute such as `4 workers x 33 MiB + 72 MiB`; words that are no unit count as 1."""

    def quantity(found: re.Match[str]) -> str:
        number, unit = found[1].replace(",", ""), found[2] or ""
        return f"({number} * {UNITS.get(unit, 1.0)})"

    text = re.sub(r"([\d.,]*\d)(?: ([a-zA-Z]+))?", quantity, text.replace(" x ", " * "))
    return float(eval(re.sub(r"[a-zA-Z_/]{2,}", "", text)))


@pytest.mark.parametrize("line", sums())
def test_each_sum_of_the_page_is_right(line: str) -> None:
    left, _, right = line.partition(" = ")
    right = re.sub(r" for a message$", "", right)

    assert value_of(left.replace("messages/s", "").replace("  ", " ")) == pytest.approx(value_of(right), rel=0.005)


def test_the_figures_of_the_sums_are_those_of_the_measurements_and_of_the_code() -> None:
    performance = (ROOT / "docs/performance.md").read_text()
    text = section("Sizing")

    assert "754 bytes" in performance
    assert "754 bytes" in text
    assert "| 897 B |" in performance
    assert "897 bytes" in text
    assert "1 (7.0 us)" in performance
    assert f"{BESIDE_CONNECTIONS:,} more" in text
    assert f"{Settings().worker_connections + BESIDE_CONNECTIONS:,}" in text
    (allowed,) = re.findall(r"^LimitNOFILE=(\d+)$", (EXAMPLES / "systemd/gserver.service").read_text(), re.M)
    assert int(allowed) >= Settings().worker_connections + BESIDE_CONNECTIONS


def test_a_worker_has_about_the_memory_of_the_page(tmp_path: Path) -> None:
    (size,) = re.findall(r"A worker has (\d+) MiB", section("Sizing"))
    with GserverProcess(tmp_path, "echo") as server:
        (pid,) = server.serving_pids()
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    assert resident == pytest.approx(int(size) << 20, rel=0.3)
