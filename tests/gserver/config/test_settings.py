"""Settings: defaults, and errors for wrong values."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gserver.config.addresses import TcpBind, UnixBind
from gserver.config.hooks import HOOKS
from gserver.config.settings import Settings, declared
from gserver.errors import ConfigError


def test_the_default_bind_is_local_port_3000() -> None:
    assert Settings().bind == (TcpBind("127.0.0.1", 3000),)


def test_every_default_is_allowed() -> None:
    values = {setting.name: getattr(Settings(), setting.name) for setting in declared() if setting.name != "bind"}

    assert Settings.checked(values) == Settings()


def test_no_flag_is_used_twice() -> None:
    flags = [flag for setting in declared() for flag in setting.metadata["flags"]]

    assert len(flags) == len(set(flags))


@pytest.mark.parametrize(
    "name",
    [
        *("bind", "backlog", "workers", "worker_connections", "max_requests", "max_requests_jitter", "timeout"),
        *("graceful_timeout", "preload_app", "reload", "reuse_port", "chdir", "daemon", "raw_env", "pidfile", "user"),
        *(
            "group",
            "umask",
            "initgroups",
            "proc_name",
            "errorlog",
            "log_format",
            "accesslog",
            "access_log_format",
            "loglevel",
        ),
        *("logconfig_dict", "capture_output", "on_starting", "when_ready", "pre_fork", "post_fork", "on_exit"),
        *("post_worker_init", "worker_int", "worker_abort", "worker_exit", "child_exit", "nworkers_changed"),
        *("on_reload", "pre_exec"),
    ],
)
def test_settings_of_gunicorn_keep_their_names(name: str) -> None:
    assert name in {setting.name for setting in declared()}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("workers", "0", "setting workers is '0', must be auto, or a whole number from 1 to 500"),
        ("workers", 1.5, "setting workers is 1.5, must be auto, or a whole number from 1 to 500"),
        ("workers", True, "setting workers is True, must be auto, or a whole number from 1 to 500"),
        ("workers", "501", "setting workers is '501', must be auto, or a whole number from 1 to 500"),
        ("backlog", "many", "setting backlog is 'many', must be a whole number of at least 1"),
        ("graceful_timeout", "-1", "setting graceful_timeout is '-1', must be a number of seconds, 0 or more"),
        ("graceful_timeout", "nan", "setting graceful_timeout is 'nan', must be a number of seconds, 0 or more"),
        ("greenlets", "many", "setting greenlets is 'many', must be one of pooled, dedicated"),
        ("loglevel", "loud", "setting loglevel is 'loud', must be one of debug, info, warning, error, critical"),
        ("patch", "yes", "setting patch is 'yes', must be True or False"),
        ("bind", [], "setting bind is [], must be an address or a list of addresses"),
        ("bind", ["x"], "setting bind is 'x' has no port: expected HOST:PORT, [V6]:PORT, unix:PATH or fd://N"),
        ("raw_env", ["x"], "setting raw_env is 'x', must be NAME=VALUE, or a list of them"),
        ("umask", "9", "setting umask is '9', must be an octal number from 0 to 777, or None"),
        (
            "user",
            "nobody-at-all",
            "setting user is 'nobody-at-all', must be the name or the number of a user of this machine",
        ),
        (
            "worker_max_rss",
            "1T",
            "setting worker_max_rss is '1T', must be a number of bytes, such as 65536, 64K, 512M or 1G",
        ),
        ("pre_fork", lambda server: None, None),
        ("on_exit", 3, "setting on_exit is 3, must be a function of (server)"),
        ("wrokers", 1, "unknown setting 'wrokers', did you mean 'workers'?"),
        ("xyzzy", 1, "unknown setting 'xyzzy': see gserver --help"),
    ],
)
def test_the_error_names_the_value_and_what_is_allowed(name: str, value: Any, says: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.checked({name: value})
    if says is None:
        says = f"setting {name} is {value!r}, must be a function of (server, worker)"
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("raw_env", ["TOKEN=hunter2", "x"], "TOKEN=... 'x'"),
        ("raw_env", ("=hunter2",), "=..."),
        ("raw_env", ["TOKEN=hunter2", 3], "TOKEN=... 3"),
        ("raw_env", {"TOKEN": "hunter2"}, "a value of type dict"),
        ("keyfile_password", b"hunter2", "a value of type bytes"),
        ("keyfile_password", "hunter2\0", "..."),
        ("logconfig_dict", [("password", "hunter2")], "a value of type list"),
        ("bus", "http://user:hunter2@host/path?secret=hunter2", "'http://host/path'"),
        ("bus", "hunter2", "'...'"),
        ("bus", "redis://[hunter2", "..."),
        ("bus", ["redis://:hunter2@host"], "a value of type list"),
    ],
)
def test_the_error_does_not_show_possible_passwords(name: str, value: Any, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.checked({name: value})

    assert str(caught.value).startswith(f"setting {name} is {shown}, must be ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"min_workers": 3, "workers": 2}, "setting min_workers is 3, must be at most workers, which is 2"),
        (
            {"drain_spread": "300"},
            "setting drain_spread is 300, must be at most graceful_timeout, which is 30",
        ),
        (
            {"drain_spread": 1.5, "graceful_timeout": 1},
            "setting drain_spread is 1.5, must be at most graceful_timeout, which is 1",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.checked(values)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    "values",
    [
        {"drain_spread": 300, "graceful_timeout": 300},
        {"drain_spread": 0, "graceful_timeout": 0},
        {"drain_spread": "auto", "graceful_timeout": 0},
        {"min_workers": 2, "workers": 2},
    ],
)
def test_settings_at_their_common_limit_are_allowed(values: dict[str, Any]) -> None:
    Settings.checked(values)


def test_text_is_as_good_as_values() -> None:
    text = {"workers": "3", "timeout": "1.5", "worker_max_rss": "2M", "umask": "027", "bind": "unix:x,mode=600"}
    values = {"workers": 3, "timeout": 1.5, "worker_max_rss": 2 << 20, "umask": 0o27, "bind": ["unix:x,mode=600"]}

    assert Settings.checked(text) == Settings.checked(values)
    assert Settings.checked(text).bind == (UnixBind("x", 0o600),)


def test_a_reload_applies_all_but_the_fixed_settings() -> None:
    running = Settings.checked({"backlog": 5, "workers": 1})
    wanted = Settings.checked({"backlog": 6, "workers": 2, "daemon": True})

    settings, not_taken = wanted.with_fixed_of(running)

    assert (settings.backlog, settings.workers, settings.daemon) == (5, 2, False)
    assert not_taken == ["backlog", "daemon"]


def test_settings_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().workers = 2  # type: ignore[misc]


def test_hooks_are_those_that_are_set() -> None:
    hooks = Settings.checked({"on_exit": lambda server: None, "pre_fork": None}).hooks

    assert "on_exit" in hooks
    assert "pre_fork" not in hooks


@pytest.mark.parametrize("name", [setting.name for setting in declared() if setting.metadata["fixed"]])
def test_every_fixed_setting_stays_and_is_named_when_it_differs(name: str) -> None:
    running = Settings()
    settings, not_taken = dataclasses.replace(running, **{name: "another"}).with_fixed_of(running)

    assert settings == running
    assert not_taken == [name]


def test_a_reload_without_changes_names_nothing() -> None:
    assert Settings().with_fixed_of(Settings()) == (Settings(), [])


@pytest.mark.parametrize("setting", declared(), ids=lambda setting: setting.name)
def test_every_setting_rejects_an_object_with_its_name_in_the_error(setting: dataclasses.Field[Any]) -> None:
    with pytest.raises(ConfigError, match=f"^setting {setting.name} is <object .*must be ") as caught:
        Settings.checked({setting.name: object()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "_checks", "checked", "Workers", "__file__", "x" * 10_000])
def test_an_unknown_setting_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^unknown setting "):
        Settings.checked({name: 1})


def test_one_wrong_value_rejects_all_values() -> None:
    with pytest.raises(ConfigError, match="setting timeout is"):
        Settings.checked({"workers": 2, "timeout": "soon"})


def test_the_hooks_of_the_settings_are_those_that_can_be_called() -> None:
    heard: list[object] = []
    Settings.checked({name: lambda *arguments: heard.append(len(arguments)) for name in HOOKS}).hooks.call("on_exit", 1)

    assert heard == [1]


@pytest.mark.parametrize(
    "setting",
    [setting for setting in declared() if setting.metadata["argument"].get("action") == "store_false"],
    ids=lambda setting: setting.name,
)
def test_a_flag_that_turns_a_setting_off_has_a_help_of_its_own(setting: dataclasses.Field[Any]) -> None:
    """The setting's text describes the value True; the flag sets False."""
    assert setting.default is True
    assert all(flag.startswith("--no-") for flag in setting.metadata["flags"])
    assert setting.metadata["flag_help"] == f"do not {setting.metadata['help']}"
