"""Hooks: called, named when they fail, and fatal only at a start."""

from __future__ import annotations

import logging
import re

import pytest

from gserver.errors import ConfigError
from gserver.hooks import HOOKS, Hooks
from gserver.settings import declared


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
    with pytest.raises(ConfigError, match=f"^hook {name} failed: ValueError: no$"):
        Hooks({name: fails}).call(name)


def test_what_ends_the_process_is_not_held_up() -> None:
    def leave() -> None:
        raise SystemExit(4)

    with pytest.raises(SystemExit):
        Hooks({"on_exit": leave}).call("on_exit")


def test_every_hook_is_a_setting_with_the_same_arguments() -> None:
    hooks = {setting.name: setting for setting in declared() if setting.metadata["group"] == "Hooks"}

    assert hooks.keys() == HOOKS.keys()
    for name, (parameters, _) in HOOKS.items():
        hooks[name].metadata["check"](lambda *arguments: None)
        with pytest.raises(ValueError, match=re.escape(f"a function of ({', '.join(parameters)})")):
            hooks[name].metadata["check"](lambda: None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_one_that_is_interrupted_is_no_failure(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def stop() -> None:
        raise error

    with pytest.raises(error):
        Hooks({"on_starting": stop}).call("on_starting")
    assert caplog.records == []


def test_one_that_takes_other_arguments_is_logged_like_any_failure(caplog: pytest.LogCaptureFixture) -> None:
    Hooks({"on_exit": lambda: None}).call("on_exit", "server")

    assert [record.getMessage() for record in caplog.records] == ["hook on_exit failed"]
