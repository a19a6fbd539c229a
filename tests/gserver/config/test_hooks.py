"""Hooks: their arguments, and what happens when one raises."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from gserver.arbiter.worker_processes import EXIT_CANNOT_START
from gserver.config.hooks import HOOKS, Hooks
from gserver.config.settings import declared
from gserver.errors import ConfigError
from tests.helpers.processes import GserverProcess, run_gserver


def fails(*arguments: object) -> None:
    raise ValueError("no")


def test_a_hook_gets_its_arguments() -> None:
    heard: list[object] = []
    hooks = Hooks({"nworkers_changed": lambda *arguments: heard.extend(arguments), "on_exit": None})

    hooks.call("nworkers_changed", "server", 2, 1)
    hooks.call("on_exit", "server")
    hooks.call("pre_fork", "server", "worker")

    assert heard == ["server", 2, 1]
    assert "nworkers_changed" in hooks
    assert "on_exit" not in hooks


@pytest.mark.parametrize("name", sorted(HOOKS.keys() - {"on_starting", "post_fork", "post_worker_init"}))
def test_one_that_raises_is_logged_with_its_name(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "gserver.hooks"):
        Hooks({name: fails}).call(name)

    assert [record.getMessage() for record in caplog.records] == [f"hook {name} failed"]
    assert "ValueError: no" in caplog.text


@pytest.mark.parametrize("name", ["on_starting", "post_fork", "post_worker_init"])
def test_one_that_raises_at_a_start_fails_it(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^hook {name} failed: ValueError: no \(.*test_hooks.py:\d+\)$"):
        Hooks({name: fails}).call(name)


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise ValueError("no words")


#: What is no Exception, or would end a process.
ALL_KINDS = [
    SystemExit(4),
    SystemExit(0),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    gevent.Timeout(1),
    gevent.GreenletExit(),
    RecursionError(),
    ConfigError("two\nlines"),
    Unspeakable(),
]


def raiser(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("error", ALL_KINDS, ids=lambda error: type(error).__name__)
def test_whatever_one_raises_nothing_else_happens(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    Hooks({"child_exit": raiser(error)}).call("child_exit")

    assert [record.getMessage() for record in caplog.records] == ["hook child_exit failed"]


@pytest.mark.parametrize("error", ALL_KINDS, ids=lambda error: type(error).__name__)
def test_whatever_one_raises_at_the_start_is_one_line(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"^hook on_starting failed: \w") as failed:
        Hooks({"on_starting": raiser(error)}).call("on_starting")

    assert "\n" not in str(failed.value)
    assert caplog.records == []


def test_an_exception_that_is_not_the_hooks_is_raised_again() -> None:
    def passes(error: BaseException) -> bool:
        return isinstance(error, KeyError)

    with pytest.raises(KeyError):
        Hooks({"connection_close": raiser(KeyError())}).call("connection_close", passes=passes)
    Hooks({"connection_close": raiser(ValueError())}).call("connection_close", passes=passes)


def test_every_hook_is_a_setting_with_the_same_arguments() -> None:
    hooks = {setting.name: setting for setting in declared() if setting.metadata["group"] == "Server Hooks"}

    assert hooks.keys() == HOOKS.keys()
    for name, (parameters, _) in HOOKS.items():
        hooks[name].metadata["check"](lambda *arguments: None)
        with pytest.raises(ValueError, match=re.escape(f"a function of ({', '.join(parameters)})")):
            hooks[name].metadata["check"](lambda: None)


def test_one_that_takes_other_arguments_is_logged_like_any_failure(caplog: pytest.LogCaptureFixture) -> None:
    Hooks({"on_exit": lambda: None}).call("on_exit", "server")

    assert [record.getMessage() for record in caplog.records] == ["hook on_exit failed"]


FAILING_CONFIG = """
import asyncio, sys
def leave(*arguments):
    sys.exit(5)
def cancelled(*arguments):
    raise asyncio.CancelledError
def when_ready(server): leave()
def pre_fork(server, worker): cancelled()
def child_exit(server, worker): leave()
def nworkers_changed(server, new_value, old_value): raise KeyboardInterrupt
def on_reload(server): leave()
def on_exit(server): leave()
def worker_exit(server, worker): leave()
"""


def test_hooks_that_exit_end_neither_the_server_nor_a_reload(tmp_path: Path) -> None:
    (tmp_path / "gserver.conf.py").write_text(FAILING_CONFIG)
    with GserverProcess(tmp_path, "echo", "--reload-settle", "0.1") as server:
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        server.signal(signal.SIGTTIN)
        server.wait_for_log("Worker ready", 3)
        server.signal(signal.SIGTERM)

        assert server.wait() == 0
    named = set(re.findall(r"hook (\w+) failed", server.log))
    assert named == set(re.findall(r"def (\w+)", FAILING_CONFIG)) - {"leave", "cancelled"}


@pytest.mark.parametrize("raised", ["sys.exit(0)", "sys.exit('no\\nway')", "raise KeyboardInterrupt", "1 / 0"])
def test_a_start_that_its_hook_fails_ends_with_one_line(tmp_path: Path, raised: str) -> None:
    (tmp_path / "gserver.conf.py").write_text(f"import sys\ndef on_starting(server):\n    {raised}\n")
    ended = run_gserver("echo", "-b", "127.0.0.1:0", "--log-level", "error", cwd=tmp_path)

    assert ended.returncode == 1
    assert re.fullmatch(r"gserver: hook on_starting failed: .+\n", ended.stderr), ended.stderr


@pytest.mark.parametrize("hook", ["post_fork(server, worker)", "post_worker_init(worker)"])
def test_a_worker_that_its_hook_fails_does_not_serve(tmp_path: Path, hook: str) -> None:
    (tmp_path / "gserver.conf.py").write_text(f"import sys\ndef {hook}:\n    sys.exit(0)\n")
    ended = run_gserver("echo", "-b", "127.0.0.1:0", cwd=tmp_path)

    assert ended.returncode == EXIT_CANNOT_START
    assert f"hook {hook.partition('(')[0]} failed: SystemExit: 0" in ended.stderr
