"""The sources of settings, in order of precedence, and how settings are printed.

    default < WEB_CONCURRENCY < config file (-c FILE, else ./gserver.conf.py) < GSERVER_CMD_ARGS < command line
    < systemd's sockets

A config file is Python: its module-level names are settings. Ignored are functions that are no setting, classes,
modules, and names that start with an underscore or an upper-case letter.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import os
import shlex
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, replace
from typing import Any, NoReturn

from gserver.config.addresses import FdBind
from gserver.config.hooks import HOOKS
from gserver.config.listener_settings import with_passed_sockets
from gserver.config.live_settings import LIVE
from gserver.config.settings import WORKERS, Settings, declared
from gserver.config.working_directory import absolute, enter
from gserver.errors import ConfigError
from gserver.user_errors import described

__all__ = [
    "CONCURRENCY",
    "Configuration",
    "add_arguments",
    "as_text",
    "as_text_without_secrets",
    "markdown_table",
    "parse_environment",
    "read_config_file",
]

CONFIG_FILE = "gserver.conf.py"
ENVIRONMENT = "GSERVER_CMD_ARGS"
#: The default of the setting workers. Platforms set it to what fits their machine; gunicorn and uvicorn read it too.
CONCURRENCY = "WEB_CONCURRENCY"
# Settings that are functions and no hooks.
_FUNCTIONS = ("ssl_context", "record_mask")


@dataclass(frozen=True)
class Configuration:
    """The sources of a server's settings; read at the start and at every reload."""

    file: str | None = None  # absolute, because the server changes its working directory
    environment: Mapping[str, Any] = field(default_factory=dict)
    command_line: Mapping[str, Any] = field(default_factory=dict)
    sockets: tuple[FdBind, ...] = ()  # passed by systemd; empty: none
    folder: str | None = None  # directory of the start; a relative chdir starts there; None: the working directory
    concurrency: str = ""  # the environment variable WEB_CONCURRENCY; empty: not set
    app: str | None = None  # APP of the command line; None: not given

    def read(self) -> Settings:
        """Read all sources and return the settings; ConfigError, in one line, for a wrong one.

        Changes to the directory of the start first, because a config file may rely on it. The caller changes to the
        setting chdir.
        """
        if self.folder is not None:
            with contextlib.suppress(ConfigError):  # it may be removed, and not needed
                enter(self.folder)
        of_file = read_config_file(self.file) if self.file else {}
        values = {**of_file, **self.environment, **self.command_line}
        if self.concurrency and "workers" not in values:
            values["workers"] = self._default_workers()
        if values.get("listeners"):
            self._check_alone(of_file)
        elif self.sockets:
            values["bind"] = [str(bind) for bind in self.sockets]
        settings = Settings.checked(self._with_chdir(values))
        if not settings.listeners:
            return settings
        return replace(settings, listeners=with_passed_sockets(settings.listeners, self.sockets))

    def read_again(self) -> Settings:
        """As read(), for a server that runs: it needs an application, too."""
        settings = self.read()
        if self.app is None and not settings.listeners:
            raise ConfigError("setting listeners is missing: the server was started without APP")
        return settings

    def _check_alone(self, of_file: Mapping[str, Any]) -> None:
        """ConfigError if something names an application or an address beside the setting listeners."""
        found = {
            f"APP ({self.app})": self.app is not None,
            "bind of the config file": "bind" in of_file,
            f"--bind of {ENVIRONMENT}": "bind" in self.environment,
            "--bind": "bind" in self.command_line,
        }
        for what, is_given in found.items():
            if is_given:
                raise ConfigError(f"{what} cannot be used beside the setting listeners, which has addresses and apps")

    def _default_workers(self) -> int:
        try:
            return int(WORKERS(self.concurrency))
        except ValueError as error:
            raise ConfigError(f"environment variable {CONCURRENCY} is {error}") from None

    def _with_chdir(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return `values` with chdir absolute: at a reload, the working directory is still the previous chdir."""
        given = values.get("chdir", ".")
        if self.folder is None or not isinstance(given, str):
            return values
        folder = absolute(given, self.folder)
        if not os.path.isdir(folder):
            raise ConfigError(f"setting chdir is {given!r}, must be a directory")
        return {**values, "chdir": folder}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings to `parser`. A flag that is not used sets no attribute."""
    groups: dict[str, Any] = {}
    for setting in declared():
        if not setting.metadata["flags"]:
            continue
        name = setting.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        group.add_argument(
            *setting.metadata["flags"],
            dest=setting.name,
            default=argparse.SUPPRESS,
            help=setting.metadata["flag_help"] + _default_help(setting),
            **setting.metadata["argument"],
        )


def _default_help(setting: Field[Any]) -> str:
    if setting.default in (None, ()) or isinstance(setting.default, bool):
        return ""
    return f" (default {_default_text(setting)})".replace("%(", "%%(")


def _default_text(setting: Field[Any]) -> str:
    return "." if setting.name == "chdir" else as_text(setting.default)


def as_text(value: Any) -> str:
    """Return the value of a setting as a user would write it."""
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return getattr(value, "__name__", str(value))


def as_text_without_secrets(setting: Field[Any], value: Any) -> str:
    """As as_text(), without passwords: for tickets, and for the logs of a deployment."""
    without_secrets = setting.metadata["check"].without_secrets
    if value in (None, ()) or without_secrets is None:
        return as_text(value)
    return str(without_secrets(value))


def markdown_table() -> str:
    """Return the tables of docs/settings.md, one for each group."""
    groups: dict[str, list[str]] = {}
    for setting in declared():
        groups.setdefault(setting.metadata["group"], []).append(_row(setting))
    head = "| setting | flags | default | meaning | allowed |\n|---|---|---|---|---|\n"
    return "\n\n".join(f"## {name}\n\n{head}" + "\n".join(rows) for name, rows in groups.items()) + "\n"


def _row(setting: Field[Any]) -> str:
    flags = " ".join(f"`{flag}`" for flag in setting.metadata["flags"])
    parameters = HOOKS[setting.name][0] if setting.name in HOOKS else ()
    name = f"{setting.name}({', '.join(parameters)})" if parameters else setting.name
    default = "" if setting.default in (None, ()) else f"`{_default_text(setting)}`"
    meaning = setting.metadata["help"].replace("%%", "%")
    if setting.metadata["argument"].get("action") == "store_false":
        meaning += f"; {flags} turns it off"
    if setting.metadata["fixed"]:
        meaning += " *(fixed)*"
    if setting.name in LIVE:
        meaning += " *(live)*"
    if setting.metadata["per_listener"]:
        meaning += " *(per listener)*"
    return f"| `{name}` | {flags} | {default} | {meaning} | {setting.metadata['check'].allowed} |"


def read_config_file(path: str) -> dict[str, Any]:
    """Run the Python file at `path`, return its settings, not validated; ConfigError if it fails."""
    names: dict[str, Any] = {"__file__": os.path.abspath(path)}
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), names)
    except BaseException as error:
        raise ConfigError(f"config file {path!r} cannot be used: {described(error)}") from error
    return {name: value for name, value in names.items() if _is_setting(path, name, value)}


def _is_setting(path: str, name: str, value: Any) -> bool:
    if name in HOOKS or name in _FUNCTIONS:
        return True
    if not name[0].islower() or inspect.ismodule(value) or inspect.isclass(value):
        return False
    if not inspect.isroutine(value):
        return True
    near = difflib.get_close_matches(name, [*HOOKS, *_FUNCTIONS], 1, 0.85)
    if near:
        what = "the hook " if near[0] in HOOKS else ""
        raise ConfigError(f"config file {path!r} has the function {name!r}: did you mean {what}{near[0]!r}?")
    return False


class _EnvironmentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{ENVIRONMENT}: {message}")


def parse_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Parse the variable GSERVER_CMD_ARGS, written like a command line; return its settings, not validated."""
    parser = _EnvironmentParser(add_help=False)
    add_arguments(parser)
    try:
        return vars(parser.parse_args(shlex.split(environ.get(ENVIRONMENT, ""))))
    except ValueError as error:  # a quote that is not closed
        raise ConfigError(f"{ENVIRONMENT}: {error}") from None
