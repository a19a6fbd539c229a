"""The sources of settings, their precedence, and how settings are printed."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gserver.config import validators
from gserver.config.addresses import FdBind, TcpBind, UnixBind
from gserver.config.hooks import HOOKS
from gserver.config.settings import MAX_WORKERS, Settings, declared
from gserver.config.sources import (
    Configuration,
    add_arguments,
    as_text,
    markdown_table,
    parse_environment,
    read_config_file,
)
from gserver.errors import ConfigError


def parse(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return vars(parser.parse_args(arguments))


def write(folder: Path, text: str) -> str:
    path = folder / "conf.py"
    path.write_text(text)
    return str(path)


def test_flags_set_their_settings() -> None:
    flags = ("-b", "127.0.0.1:1", "--bind", "unix:x", "-w", "3", "--graceful-timeout", "1.5", "--no-patch", "-e", "A=1")
    settings = Settings.checked(parse(*flags))

    assert settings.bind == (TcpBind("127.0.0.1", 1), UnixBind("x"))
    assert settings.workers == 3
    assert settings.graceful_timeout == 1.5
    assert settings.patch is False
    assert settings.raw_env == ("A=1",)


def test_flags_that_are_not_used_leave_nothing() -> None:
    assert parse() == {}


def test_every_setting_has_a_flag_and_help_unless_it_is_code_or_a_secret() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())

    for setting in declared():
        if setting.metadata["group"] == "Server Hooks" or setting.name in (
            "listeners",
            "logconfig_dict",
            "ssl_context",
            "keyfile_password",
            "record_mask",
        ):
            assert not setting.metadata["flags"]
        else:
            assert setting.metadata["flags"][-1] in text
            assert setting.metadata["flag_help"].replace("%%", "%") in text


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, "workers = 2\ntimeout = 2\nbacklog = 2")
    environment = parse_environment({"GSERVER_CMD_ARGS": "--timeout 3 --backlog 3"})
    settings = Configuration(file, environment, parse("--backlog", "4")).read()

    assert (settings.workers, settings.timeout, settings.backlog, settings.graceful_timeout) == (2, 3.0, 4, 30.0)


@pytest.mark.parametrize(
    ("concurrency", "text", "flags", "workers"),
    [
        ("3", "", (), 3),
        (" 3 ", "", (), 3),
        ("", "", (), 1),
        ("3", "workers = 2", (), 2),
        ("3", "", ("-w", "4"), 4),
        ("none", "workers = 2", (), 2),
    ],
    ids=["alone", "with spaces", "empty", "file", "flag", "wrong but not used"],
)
def test_web_concurrency_is_the_default_of_workers(
    tmp_path: Path, concurrency: str, text: str, flags: tuple[str, ...], workers: int
) -> None:
    configuration = Configuration(write(tmp_path, text), {}, parse(*flags), concurrency=concurrency)

    assert configuration.read().workers == workers


@pytest.mark.parametrize("wrong", ["0", "-1", "501", "2.5", "many"])
def test_a_wrong_web_concurrency_is_reported_with_its_name_and_value(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Configuration(concurrency=wrong).read()
    allowed = "must be auto, or a whole number from 1 to 500"
    assert str(caught.value) == f"environment variable WEB_CONCURRENCY is {wrong!r}, {allowed}"


def test_workers_may_be_as_many_as_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, workers in ((3, 3), (1000, MAX_WORKERS)):
        monkeypatch.setattr(validators, "usable_processors", lambda found=found: found)
        assert Configuration(command_line=parse("-w", "auto")).read().workers == workers
        assert Configuration(concurrency="auto").read().workers == workers


def test_sockets_of_systemd_take_the_place_of_binds() -> None:
    settings = Configuration(command_line=parse("-b", "127.0.0.1:1"), sockets=(FdBind(3), FdBind(4))).read()

    assert settings.bind == (FdBind(3), FdBind(4))


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    configuration = Configuration(write(tmp_path, "workers = 2"))
    assert configuration.read().workers == 2
    write(tmp_path, "workers = 3")

    assert configuration.read().workers == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--wrokers 2", "GSERVER_CMD_ARGS: unrecognized arguments: --wrokers 2"),
        ("--workers", "GSERVER_CMD_ARGS: argument -w/--workers: expected one argument"),
        ("--workers 'x", "GSERVER_CMD_ARGS: No closing quotation"),
    ],
)
def test_an_error_in_the_variable_is_one_line_with_its_name(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_environment({"GSERVER_CMD_ARGS": text})
    assert str(caught.value) == says


def test_without_the_variable_nothing_is_set() -> None:
    assert parse_environment({}) == {}


def test_a_config_file_is_python_and_keeps_its_own_affairs(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "import os\n_cores = 2\nLIMIT = 9\ndef helper(): pass\nclass lower: pass\n"
        "workers = _cores * 2\nbind = ['127.0.0.1:0']\n",
    )

    assert read_config_file(path) == {"workers": 4, "bind": ["127.0.0.1:0"]}


def test_hooks_are_functions_of_the_config_file(tmp_path: Path) -> None:
    values = read_config_file(write(tmp_path, "def on_exit(server): pass\non_reload = lambda server: None\n"))

    assert sorted(values) == ["on_exit", "on_reload"]


def test_a_hook_that_is_nearly_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the function 'when_redy': did you mean the hook 'when_ready'"):
        read_config_file(write(tmp_path, "def when_redy(server): pass"))


@pytest.mark.parametrize("text", ["workers = ", "1 / 0", "import nothing_like_this", "raise SystemError('x')"])
def test_a_config_file_that_cannot_run_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^config file '.*conf\.py' cannot be used: \w+Error: "):
        read_config_file(write(tmp_path, text))


def test_a_config_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'nowhere\.py' cannot be used: FileNotFoundError: "):
        read_config_file("nowhere.py")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((TcpBind("::1", 1), UnixBind("/x", 0o600, "me")), "[::1]:1 unix:/x,mode=600,user=me"),
        (30.0, "30"),
        (0.25, "0.25"),
        (False, "False"),
        (None, "None"),
        (write, "write"),
    ],
)
def test_a_value_is_shown_as_it_would_be_written(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_the_table_has_a_row_for_every_setting() -> None:
    table = markdown_table()

    for setting in declared():
        assert f"| `{setting.name}" in table
    assert all(line.count(" | ") == 4 for line in table.splitlines() if line.startswith("| `"))


SOURCES: list[dict[str, Any]] = [
    {"file": "workers = 2"},
    {"environment": parse_environment({"GSERVER_CMD_ARGS": "--workers 3"})},
    {"command_line": parse("-w", "4")},
]


@pytest.mark.parametrize(("count", "workers"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_each_source_wins_over_all_before_it(tmp_path: Path, count: int, workers: int) -> None:
    sources: dict[str, Any] = {}
    for source in SOURCES[:count]:
        sources |= source
    if "file" in sources:
        sources["file"] = write(tmp_path, sources["file"])

    assert Configuration(**sources).read().workers == workers


@pytest.mark.parametrize("setting", declared(), ids=lambda setting: setting.name)
def test_every_flag_arrives_under_its_settings_name(setting: dataclasses.Field[Any]) -> None:
    action = setting.metadata["argument"].get("action")
    for flag in setting.metadata["flags"]:
        given = parse(flag) if action in ("store_true", "store_false") else parse(flag, "x")

        assert given == {setting.name: {"append": ["x"], "store_true": True, "store_false": False}.get(action, "x")}


def test_binds_of_a_later_source_replace_those_of_an_earlier_one(tmp_path: Path) -> None:
    file = write(tmp_path, "bind = ['127.0.0.1:1', '127.0.0.1:2']")
    settings = Configuration(file, command_line=parse("-b", "127.0.0.1:3")).read()

    assert settings.bind == (TcpBind("127.0.0.1", 3),)


@pytest.mark.parametrize("words", ["echo", "--help", "-- -w 2", "-w 2 echo"])
def test_the_variable_holds_flags_of_settings_only(words: str) -> None:
    with pytest.raises(ConfigError, match=r"^GSERVER_CMD_ARGS: "):
        parse_environment({"GSERVER_CMD_ARGS": words})


def test_words_of_the_variable_may_be_quoted() -> None:
    assert parse_environment({"GSERVER_CMD_ARGS": "-n 'a b' -e \"A=x y\""}) == {
        "proc_name": "a b",
        "raw_env": ["A=x y"],
    }


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_every_hook_that_is_misspelt_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean the hook '{name}'"):
        read_config_file(write(tmp_path, f"def {name}s(*arguments): pass"))


def test_a_hook_that_is_no_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^setting on_exit is 3, must be a function of \(server\)$"):
        Configuration(write(tmp_path, "on_exit = 3")).read()


def test_a_config_file_has_its_path_in_file(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, "pidfile = __file__ + '.pid'")) == {"pidfile": f"{tmp_path}/conf.py.pid"}


@pytest.mark.parametrize(
    "text",
    [b"workers = '\xff'", b"workers = 1\0", b"raise SystemExit(3)", b"def f(): f()\nf()", b"raise ValueError('a\\nb')"],
    ids=["no text", "zero byte", "exit", "recursion", "two lines"],
)
def test_a_config_file_that_cannot_be_used_is_named_whatever_it_does(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "conf.py"
    path.write_bytes(text)

    with pytest.raises(ConfigError, match=r"^config file '.*conf\.py' cannot be used: "):
        read_config_file(str(path))


def test_a_folder_is_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used: IsADirectoryError: "):
        read_config_file(str(tmp_path))


def test_a_config_file_of_nothing_sets_nothing(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, "")) == {}
