"""The live settings: which changes need new workers, which hooks are the same, and values as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.config.live_settings import LIVE, changed_names, plain_values, reason_for_new_workers, with_values
from gserver.config.settings import Settings, declared
from gserver.config.sources import read_config_file
from gserver.errors import ConfigError

NAMES = {field.name for field in declared()}


def test_live_settings_exist_and_none_of_them_is_fixed() -> None:
    assert NAMES >= LIVE
    assert not [field.name for field in declared() if field.metadata["fixed"] and field.name in LIVE]


# Values

NETWORKS = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]
VALUES: dict[str, Any] = {
    "idle_timeout": 0.5,
    "drain_spread": 2,
    "worker_max_rss": "512M",
    "allow": NETWORKS,
    "deny": "10.1.0.0/16",
    "proxy_allow_ips": [],
    "loglevel": "debug",
    "access_log_format": "%(h)s",
    "full_action": "shed",
    "max_accept_rate": 1.5,
    "tcp_keepalive_idle": 60,
}


@pytest.mark.parametrize("values", [{}, VALUES], ids=["defaults", "others"])
def test_values_survive_json(values: dict[str, Any]) -> None:
    settings = Settings.checked(values)
    sent = json.loads(json.dumps(plain_values(settings, LIVE)))

    assert with_values(Settings.checked({}), sent) == settings
    assert changed_names(with_values(settings, sent), settings) == []


@given(st.sets(st.sampled_from(sorted(VALUES))))
def test_only_the_named_values_are_changed(names: set[str]) -> None:
    before = Settings.checked({"workers": 4, "min_workers": 3, "idle_timeout": 7})
    after = with_values(before, {name: VALUES[name] for name in names})

    assert set(changed_names(before, after)) == names
    assert after == dataclasses.replace(before, **{name: getattr(after, name) for name in names})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"workers": 3}, "setting workers needs new workers"),
        ({"idle_timeout": 1, "backlog": 1}, "setting backlog needs new workers"),
        ({"connection_open": None}, "setting connection_open needs new workers"),
        ({"idle_timout": 1}, "unknown setting 'idle_timout', did you mean 'idle_timeout'"),
        ({"idle_timeout": "x"}, "setting idle_timeout is 'x', must be a number"),
        ({"min_workers": 2}, "min_workers is 2, must be at most workers, which is 1"),
        ({"drain_spread": 31}, "drain_spread is 31, must be at most graceful_timeout"),
        ({"graceful_timeout": 1, "drain_spread": 2}, "drain_spread is 2, must be at most graceful_timeout, which is 1"),
    ],
)
def test_what_is_not_live_or_not_valid_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_values(Settings.checked({}), values)


def test_the_limit_of_min_workers_is_the_number_of_workers() -> None:
    assert with_values(Settings.checked({"workers": 4}), {"min_workers": 4}).min_workers == 4


def test_a_list_that_is_the_same_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes over one value while it serves: it must not validate thousands of networks for that."""
    settings = Settings.checked({"allow": NETWORKS})
    monkeypatch.setattr("gserver.config.validators.parse_networks", lambda texts: pytest.fail("parsed"))

    assert with_values(settings, {"idle_timeout": 1}).allow == settings.allow


# Reasons


@pytest.mark.parametrize(
    ("changed", "fixed", "reason"),
    [
        ([], [], "no setting has changed"),
        (["idle_timeout"], [], None),
        (["idle_timeout", "loglevel"], [], None),
        (["idle_timeout", "bind"], [], "setting bind has changed"),
        (["idle_timeout"], ["pidfile"], "setting pidfile has changed"),
        ([], ["pidfile"], "setting pidfile has changed"),
    ],
)
def test_the_reason_for_new_workers(changed: list[str], fixed: list[str], reason: str | None) -> None:
    assert reason_for_new_workers(changed, fixed) == reason


# Hooks of a config file, which is run again at each reload


def changed_by(folder: Path, before: str, after: str) -> list[str]:
    path = folder / "conf.py"
    found = []
    for text in (before, after):
        path.write_text(text)
        found.append(Settings.checked(read_config_file(str(path))))
    return changed_names(*found)


PLAIN = """
import logging
LOG = logging.getLogger("x")
LIMIT = 1
TABLE = {"a": (1, 2)}

def helper(number=1, *, other=2):
    return number + LIMIT

def post_fork(server, worker):
    "A comment."
    for each in (lambda: helper(LIMIT), lambda: LOG.info(TABLE)):
        each()
"""


@pytest.mark.parametrize(
    ("config", "same"),
    [
        (PLAIN, ""),
        ("\n\n# moved down\nOTHER = 5\n" + PLAIN, "\n\n# moved down\nOTHER = 5\n"),
        ("connection_open = lambda worker, conn: worker.log.info('x')\n", ""),
        ("from os import getpid\ndef post_fork(server, worker):\n    getpid()\n", ""),
        ("from functools import cached_property, lru_cache\ndef post_fork(server, worker):\n    lru_cache\n", ""),
        ("import contextlib\ndef post_fork(server, worker):\n    with contextlib.suppress(OSError): pass\n", ""),
        ("import contextlib\nsuppress = contextlib.contextmanager\ndef post_fork(server, worker):\n    suppress\n", ""),
        ("def post_fork(server, worker):\n    [each for each in range(3)]\n    def inner(): return inner\n", ""),
    ],
    ids=["functions", "moved", "lambda", "builtin", "library", "module", "library function", "inner"],
)
def test_hooks_of_the_same_code_are_the_same(tmp_path: Path, config: str, same: str) -> None:
    assert changed_by(tmp_path, config, config) == []
    assert changed_by(tmp_path, config.removeprefix(same), config) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PLAIN, PLAIN.replace("each()", "each")),
        (PLAIN, PLAIN.replace("LIMIT = 1", "LIMIT = 2")),
        (PLAIN, PLAIN.replace("LIMIT = 1", "LIMIT = 1.0")),
        (PLAIN, PLAIN.replace("LIMIT = 1", "LIMIT = True")),
        (PLAIN, PLAIN.replace("(1, 2)", "(1, 2.0)")),
        (PLAIN, PLAIN.replace('getLogger("x")', 'getLogger("y")')),
        (PLAIN, PLAIN.replace("number=1", "number=2")),
        (PLAIN, PLAIN.replace("other=2", "other=3")),
        (PLAIN, PLAIN.replace("number + LIMIT", "number - LIMIT")),
        (PLAIN, PLAIN + "helper.speed = 1\n"),
        (PLAIN, PLAIN.replace("def helper", "def other_helper")),
        (PLAIN, ""),
        ("", PLAIN),
        ("connection_open = lambda worker, conn: 1\n", "connection_open = lambda worker, conn: 2\n"),
        ("connection_open = lambda worker, conn: 1\n", "connection_open = lambda worker, conn: True\n"),
    ],
    ids=[
        *("code", "global", "type of a global", "bool", "inside a global", "object", "default", "keyword default"),
        *("helper", "attribute", "helper is gone", "removed", "added", "lambda", "type of a constant"),
    ],
)
def test_other_hooks_are_a_change(tmp_path: Path, before: str, after: str) -> None:
    assert len(changed_by(tmp_path, before, after)) == 1


CLOSURE = "def made(n):\n    def hook(server, worker): return n\n    return hook\npost_fork = made({n})\n"
DECORATED = """
import functools
def twice(f):
    @functools.wraps(f)
    def hook(server, worker): f(server, worker); f(server, worker)
    return hook
@twice
def post_fork(server, worker): pass
"""
INSTANCE = "class Hook:\n    def __call__(self, server, worker): pass\npost_fork = Hook()\n"
USES_CLASS = "class Made: pass\ndef post_fork(server, worker): Made()\n"
DEEP = "def a(): pass\ndef b(): a()\ndef c(): b()\ndef post_fork(server, worker): c()\n"
RECURSIVE = "def post_fork(server, worker): post_fork(server, worker)\n"
PARTIAL = "import functools\ndef hook(server, worker): pass\npost_fork = functools.partial(hook)\n"
EQUAL = "class Odd:\n    def __eq__(self, other): {does}\n    __hash__ = None\nODD = Odd()\n"
EQUAL += "def post_fork(server, worker): ODD\n"


@pytest.mark.parametrize(
    "config",
    [CLOSURE.format(n=1), DECORATED, INSTANCE, USES_CLASS, DEEP, RECURSIVE, PARTIAL],
    ids=["closure", "decorator", "instance", "class", "deep", "recursive", "partial"],
)
def test_hooks_that_cannot_be_compared_count_as_changed(tmp_path: Path, config: str) -> None:
    assert changed_by(tmp_path, config, config) == ["post_fork"]


@pytest.mark.parametrize("does", ["raise ValueError", "return [].x", "return True", "return NotImplemented"])
def test_values_that_cannot_be_compared_count_as_changed_and_harm_nothing(tmp_path: Path, does: str) -> None:
    config = EQUAL.format(does=does)
    assert changed_by(tmp_path, config, config) == ["post_fork"]


@pytest.mark.parametrize("name", ["ssl_context", "logconfig_dict"])
def test_other_settings_may_have_functions_too(tmp_path: Path, name: str) -> None:
    config = {
        "ssl_context": "def ssl_context(config, default_ssl_context_factory): return {n}\n",
        "logconfig_dict": "logconfig_dict = {{'version': 1, 'disable_existing_loggers': bool({n})}}\n",
    }[name]
    assert changed_by(tmp_path, config.format(n=0), config.format(n=0)) == []
    assert changed_by(tmp_path, config.format(n=0), config.format(n=1)) == [name]


# Listeners

LISTENERS = """
def context(config, factory):
    return factory()

listeners = {{
    "127.0.0.1:1": {{"app": "echo", "certfile": "c", "ssl_context": context, "idle_timeout": {timeout}}},
}}
"""


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (LISTENERS.format(timeout=3), LISTENERS.format(timeout=3), []),
        (LISTENERS.format(timeout=3), "\n" + LISTENERS.format(timeout="3.0"), []),
        (LISTENERS.format(timeout=3), LISTENERS.format(timeout=4), ["listeners"]),
        (LISTENERS.format(timeout=3), LISTENERS.format(timeout=3).replace("echo", "json"), ["listeners"]),
        (LISTENERS.format(timeout=3), LISTENERS.format(timeout=3).replace("factory()", "None"), ["listeners"]),
        (LISTENERS.format(timeout=3), "", ["bind", "listeners"]),
    ],
    ids=["the same", "another line", "a live value", "another app", "another function", "none"],
)
def test_a_change_in_a_listener_needs_new_workers(tmp_path: Path, before: str, after: str, changed: list[str]) -> None:
    file = tmp_path / "conf.py"
    found = []
    for text in (before, after):
        file.write_text(text)
        found.append(Settings.checked(read_config_file(str(file))))

    assert changed_names(*found) == changed
    assert "listeners" not in LIVE
