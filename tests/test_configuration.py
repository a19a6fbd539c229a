"""Where settings come from, and how they are shown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from gserver.bind import FdBind, TcpBind, UnixBind
from gserver.configuration import (
    Configuration,
    add_arguments,
    as_text,
    markdown_table,
    parse_environment,
    read_config_file,
)
from gserver.errors import ConfigError
from gserver.settings import Settings, declared


def parse(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return vars(parser.parse_args(arguments))


def write(folder: Path, text: str) -> str:
    path = folder / "conf.py"
    path.write_text(text)
    return str(path)


def test_flags_set_what_they_name() -> None:
    flags = ("-b", "127.0.0.1:1", "--bind", "unix:x", "-w", "3", "--graceful-timeout", "1.5", "--no-patch", "-e", "A=1")
    settings = Settings.checked(parse(*flags))

    assert settings.bind == (TcpBind("127.0.0.1", 1), UnixBind("x"))
    assert settings.workers == 3
    assert settings.graceful_timeout == 1.5
    assert settings.patch is False
    assert settings.raw_env == ("A=1",)


def test_flags_that_are_not_used_leave_nothing() -> None:
    assert parse() == {}


def test_every_setting_but_hooks_and_dictionaries_has_a_flag_and_help() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())

    for setting in declared():
        if setting.metadata["group"] == "Hooks" or setting.name == "logconfig_dict":
            assert not setting.metadata["flags"]
        else:
            assert setting.metadata["flags"][-1] in text
            assert setting.metadata["help"].replace("%%", "%") in text


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(tmp_path, "workers = 2\ntimeout = 2\nbacklog = 2")
    environment = parse_environment({"GSERVER_CMD_ARGS": "--timeout 3 --backlog 3"})
    settings = Configuration(file, environment, parse("--backlog", "4")).read()

    assert (settings.workers, settings.timeout, settings.backlog, settings.graceful_timeout) == (2, 3.0, 4, 30.0)


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
def test_a_wrong_variable_is_one_line_that_names_it(text: str, says: str) -> None:
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
