"""The files in examples/prometheus with a real Prometheus that scrapes a real server."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prometheus_client", reason="the metrics need prometheus-client")

from gserver.counters import SAMPLED_ONE_OF
from gserver.metrics.prometheus_text import FAMILIES
from tests.helpers.certificates import make_certificates
from tests.helpers.processes import GserverProcess, wait_for
from tests.helpers.scraping import metrics_address, request

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="prometheus is not installed (Debian: prometheus)"
)

EXAMPLES = Path(__file__).parents[2] / "examples/prometheus"
DASHBOARD = json.loads((EXAMPLES / "dashboard.json").read_text())
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}, {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
ALERTS = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"][0]["rules"]


def promtool(*arguments: str, text: str = "") -> str:
    """Run promtool; return what it printed. Fails if it finds anything wrong."""
    ended = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, cwd=EXAMPLES, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@needs_promtool
def test_the_example_files_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_tested_with_and_without_its_fault() -> None:
    good, bad = yaml.safe_load((EXAMPLES / "alerts_test.yml").read_text())["tests"]
    names = [rule["alert"] for rule in ALERTS]

    assert [each["alertname"] for each in good["alert_rule_test"]] == names
    assert [each["alertname"] for each in bad["alert_rule_test"]] == names
    assert not any(each["exp_alerts"] for each in good["alert_rule_test"])
    assert all(each["exp_alerts"] for each in bad["alert_rule_test"])


@needs_promtool
def test_promtool_finds_nothing_in_the_metrics_of_a_server(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo", "--metrics-bind", "127.0.0.1:0") as server:
        text = request(metrics_address(server), "/metrics").text
    assert promtool("check", "metrics", text=text) == ""


class Prometheus:
    """A running Prometheus that scrapes one target every second and evaluates alerts.yml."""

    def __init__(self, folder: Path, target: tuple[str, int]) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(EXAMPLES / "alerts.yml")],
            "scrape_configs": [
                {"job_name": "gserver", "static_configs": [{"targets": ["{}:{}".format(*target)]}]},
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=self._log,
            cwd=folder,
        )

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """The values of an expression now; none while Prometheus starts."""
        try:
            return [float(each["value"][1]) for each in self.ask("query", query=expression)["result"]]
        except OSError:
            assert self.process.poll() is None
            return []

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._log.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a server with TLS, and has seen some traffic."""
    folder = tmp_path_factory.mktemp("prometheus")
    files = make_certificates(folder)
    flags = ("--certfile", files.combined, "--metrics-bind", "127.0.0.1:0")
    with GserverProcess(folder, "echo", *flags, workers=2) as server:
        made = Prometheus(folder, metrics_address(server))
        try:
            for _ in range(3):  # samples before and after each of the connections
                accepted = made.values("gserver_connections_accepted_total")
                with (
                    server.connect() as sock,
                    files.client_context().wrap_socket(sock, server_hostname="localhost") as client,
                ):
                    for _ in range(2 * SAMPLED_ONE_OF):  # a worker has timed a handler
                        client.sendall(b"hello\n")
                        assert client.recv(100)
                wait_for(lambda: made.values("gserver_connections_accepted_total") > accepted, "a scrape")  # noqa: B023
            yield made
        finally:
            made.close()


@needs_prometheus
@pytest.mark.parametrize("expression", QUERIES)
def test_each_panel_has_data(prometheus: Prometheus, expression: str) -> None:
    query = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    assert "$" not in query

    def has_data() -> bool:
        values = prometheus.values(query)
        return bool(values) and not any(map(math.isnan, values))

    wait_for(has_data, f"data for {query}")


@needs_prometheus
def test_prometheus_evaluates_all_alerts_and_none_is_raised(prometheus: Prometheus) -> None:
    def are_evaluated() -> bool:
        groups = prometheus.ask("rules")["groups"]
        return [rule["health"] for group in groups for rule in group["rules"]] == ["ok"] * len(ALERTS)

    wait_for(are_evaluated, "all rules are evaluated")
    assert prometheus.values('ALERTS{alertstate="firing"}') == []


def test_the_dashboard_and_the_alerts_name_only_metrics_that_exist() -> None:
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    known = {family.full_name + suffix for family in FAMILIES for suffix in suffixes.get(family.kind, ("",))}
    expressions = [parameter.values[0] for parameter in QUERIES] + [rule["expr"] for rule in ALERTS]
    named = {word for text in expressions for word in _names(str(text))}

    assert named - known == set()


def _names(expression: str) -> set[str]:
    return set(re.findall(r"\bgserver_\w+", expression))
