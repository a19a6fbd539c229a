"""Only compat.py depends on undocumented parts of Locust, and all of them exist in the installed version."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPAT = ROOT / "loadtests" / "locust_integration" / "compat.py"
MODULES = sorted(path for path in (ROOT / "loadtests").rglob("*.py") if path != COMPAT)
DOCUMENTED = {
    "locust.User",
    "locust.task",
    "locust.events",
    "locust.LoadTestShape",
    "locust.env.Environment",
    "locust.web.WebUI",
}
#: Attributes of Locust's objects by which a module would reach into them.
INTERNAL = {"_handlers", "_send_stats", "clients", "connection_event", "user_classes_count", "dispatcher_class"}
#: What the functions that change Locust replace, and what the others read.
CHECK = """
import inspect
from locust import argument_parser, env, event, runners, stats
from loadtests.locust_integration import compat

assert list(inspect.signature(runners.MasterRunner.handle_message).parameters) == ["self", "client_id", "msg"]
assert list(inspect.signature(runners.WorkerRunner.connect_to_master).parameters) == ["self"]
before = runners.MasterRunner.handle_message, stats.StatsCSVFileWriter, runners.MASTER_HEARTBEAT_TIMEOUT
assert isinstance(runners.Runner.__dict__["user_classes_count"], property)
assert callable(argument_parser.default_args_dict) and callable(stats.bucket_response_time)
assert runners.HEARTBEAT_LIVENESS == compat.worker_silence_s() and runners.HEARTBEAT_DEAD_INTERNAL < 0
assert hasattr(runners.WorkerRunner, "_send_stats") and event.EventHook()._handlers == []
environment = env.Environment()
assert not compat.has_other_request_listeners(environment)
assert compat.required_options() == []
environment.events.request.add_listener(lambda **_: None)
environment.events.request.add_listener(lambda **_: None)
assert compat.has_other_request_listeners(environment)
compat.add_successes(
    environment, "SUM", "TCP", by_second={7: 2, 8: 1}, now_s=8, size=90, times_ms={0.3: 2, 5.0: 1}, least_ms=0.3,
    most_ms=5.0, total_ms=5.6,
)
for entry in (environment.stats.total, environment.stats.get("SUM", "TCP")):
    assert (entry.num_requests, entry.num_failures, entry.total_content_length) == (3, 0, 90)
    assert (entry.min_response_time, entry.max_response_time, entry.median_response_time) == (0.3, 5.0, 0.3)
    assert sorted(entry.num_reqs_per_sec.values()) == [1, 2]
assert before == (runners.MasterRunner.handle_message, stats.StatsCSVFileWriter, runners.MASTER_HEARTBEAT_TIMEOUT)
print("done")
"""

#: A worker of a Locust file without load_shape.py builds Locust's parser once, and not for each option.
STANDARD_USERS = """
import loadtests.locustfile
from locust import argument_parser

assert argument_parser.default_args_dict() is argument_parser.default_args_dict()
print("done")
"""
#: The greenlet that writes --csv files ends quietly when Locust closes them and its process ends later.
CLOSED_CSV = """
import tempfile
import gevent
from locust import env, stats
from loadtests.locust_integration import compat

compat.write_last_row_of_csv()
stats.CSV_STATS_INTERVAL_SEC = 0.001
with tempfile.TemporaryDirectory() as folder:
    environment = env.Environment()
    writer = stats.StatsCSVFileWriter(environment, [0.5], f"{folder}/kept")
    writing = gevent.spawn(writer.stats_writer)
    gevent.sleep(0)
    writer.close_files()
    writing.join()
assert writing.successful(), writing.exception
print("done")
"""


def locust_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] == "locust"}


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_every_other_module_uses_only_what_locust_documents(path: Path) -> None:
    attributes = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}

    assert locust_names(path) - DOCUMENTED == set()
    assert attributes & INTERNAL == set()


@pytest.mark.parametrize("check", [CHECK, STANDARD_USERS, CLOSED_CSV], ids=["compat", "users", "csv"])
def test_the_internals_are_those_of_the_installed_locust(check: str) -> None:
    """In a process of its own, because Locust patches the standard library; importing compat.py changes nothing."""
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr
