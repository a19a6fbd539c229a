"""The plugin in a pytest of its own, which is not patched and has no conftest of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLUGIN = "gserver.testing.pytest_plugin"
SERVICE = """
import gevent, time
from gserver import Lines, Service

def handle(line, conn):
    if line == b"fail":
        raise ValueError("cannot do that")
    if line == b"sleep":
        gevent.sleep(3600)
    return line.upper()

app = Service(handle, Lines)
"""


def run_pytest(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "service.py").write_text(SERVICE)
    (folder / "test_it.py").write_text(f"import sys\nfrom service import app\n{test}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:locust", *options, "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment, check=False
    )


def test_the_fixtures(tmp_path: Path) -> None:
    test = """
def test_serve(gserver_serve):
    server = gserver_serve(app, idle_timeout=60)
    assert server.connect().call(b"x") == b"X"
    assert gserver_serve(app).connect().call(b"y") == b"Y"
    assert sys.modules["gevent.monkey"].is_module_patched("socket") is False

def test_conversation(gserver_conversation):
    conv = gserver_conversation(app, handler_timeout=0)
    conv.message(b"sleep")
    assert conv.advance(3600) == [b"SLEEP"]
"""
    ended = run_pytest(tmp_path, test, "-p", PLUGIN)

    assert "2 passed" in ended.stdout, ended.stdout
    assert ended.returncode == 0


@pytest.mark.parametrize("fixture", ["gserver_serve", "gserver_conversation"])
def test_an_error_of_a_handler_fails_the_test_and_shows_the_users_lines_only(tmp_path: Path, fixture: str) -> None:
    call = "server.connect().send(b'fail')" if fixture == "gserver_serve" else "server.message(b'fail')"
    ended = run_pytest(tmp_path, f"def test_it({fixture}):\n    server = {fixture}(app)\n    {call}\n", "-p", PLUGIN)

    assert ended.returncode == 1
    assert "ValueError: cannot do that" in ended.stdout
    assert 'raise ValueError("cannot do that")' in ended.stdout
    assert "handler failed for 127.0.0.1:" in ended.stdout


def test_a_with_block_shows_the_line_of_the_test(tmp_path: Path) -> None:
    test = """
from gserver.testing import Conversation, check_codec, serve
from gserver import Lines

def test_serve():
    with serve(app) as server:
        server.connect().send(b"fail")

def test_conversation():
    with Conversation(app) as conv:
        conv.message(b"fail")

def test_codec():
    check_codec(Lines, [(b"a\\n", [b"b"])])
"""
    ended = run_pytest(tmp_path, test, "--tb=short")

    assert "3 failed" in ended.stdout
    places = [line for line in ended.stdout.splitlines() if line.startswith("test_it.py:")]
    assert {line.split(":")[1] for line in places} >= {"8", "12", "16"}, ended.stdout
    assert "the messages of b'a\\n' are [b'a'], must be [b'b']" in ended.stdout
    assert "codec_checks.py" not in ended.stdout
    assert "user_failures.py" not in ended.stdout


def test_a_pytest_that_does_not_use_it_imports_neither_gevent_nor_gserver(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    loaded = {name for name in sys.modules if name.partition('.')[0] in ('gevent', 'gserver')}\n"
        "    assert loaded == {'gserver', 'gserver.testing', 'gserver.testing.pytest_plugin'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", PLUGIN, "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False
    )

    assert ended.returncode == 0, ended.stdout


def test_the_distribution_names_the_plugin() -> None:
    assert f'"pytest11": ["gserver = {PLUGIN}"]' in (ROOT / "setup.py").read_text("utf-8")
