"""Settings: defaults, checks, the config file and the generated flags."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gserver.bind import TcpBind, UnixBind
from gserver.errors import ConfigError
from gserver.settings import Settings, add_arguments, read_config_file


def parse(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Settings.checked(vars(parser.parse_args(arguments)))


def test_the_default_bind_is_local_port_3000() -> None:
    assert Settings().bind == (TcpBind("127.0.0.1", 3000),)


def test_flags_set_what_they_name() -> None:
    settings = parse("-b", "127.0.0.1:1", "--bind", "unix:x", "-w", "3", "--graceful-timeout", "1.5", "--no-patch")

    assert settings.bind == (TcpBind("127.0.0.1", 1), UnixBind("x"))
    assert settings.workers == 3
    assert settings.graceful_timeout == 1.5
    assert settings.patch is False


def test_every_setting_has_a_flag_and_help() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    for field in dataclasses.fields(Settings):
        assert field.metadata["flags"]
        assert field.metadata["help"] in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("workers", "0", "setting workers is '0', must be a whole number of at least 1"),
        ("workers", 1.5, "setting workers is 1.5, must be a whole number of at least 1"),
        ("workers", True, "setting workers is True, must be a whole number of at least 1"),
        ("backlog", "many", "setting backlog is 'many', must be a whole number of at least 1"),
        ("graceful_timeout", "-1", "setting graceful_timeout is '-1', must be a number of seconds, 0 or more"),
        ("graceful_timeout", "nan", "setting graceful_timeout is 'nan', must be a number of seconds, 0 or more"),
        ("greenlets", "many", "setting greenlets is 'many', must be one of pooled, dedicated"),
        ("loglevel", "loud", "setting loglevel is 'loud', must be one of debug, info, warning, error, critical"),
        ("patch", "yes", "setting patch is 'yes', must be True or False"),
        ("bind", [], "setting bind is [], must be an address or a list of addresses"),
        ("bind", ["x"], "setting bind is 'x' has no port: expected HOST:PORT, [V6]:PORT or unix:PATH"),
        ("wrokers", 1, "unknown setting 'wrokers', did you mean 'workers'?"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.checked({name: value})
    assert str(caught.value) == says


def test_a_directory_must_exist(tmp_path: Path) -> None:
    assert Settings.checked({"chdir": str(tmp_path)}).chdir == str(tmp_path)
    with pytest.raises(ConfigError, match="must be a directory"):
        Settings.checked({"chdir": str(tmp_path / "nothing")})


def test_a_config_file_is_python_and_keeps_its_own_affairs(tmp_path: Path) -> None:
    path = tmp_path / "conf.py"
    path.write_text(
        "import os\n_cores = 2\nLIMIT = 9\ndef helper(): pass\nworkers = _cores * 2\nbind = ['127.0.0.1:0']\n"
    )

    assert read_config_file(str(path)) == {"workers": 4, "bind": ["127.0.0.1:0"]}


@pytest.mark.parametrize("text", ["workers = ", "1 / 0", "import nothing_like_this"])
def test_a_config_file_that_cannot_run_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "conf.py"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"^config file '.*conf\.py' cannot be used: \w+Error: "):
        read_config_file(str(path))
