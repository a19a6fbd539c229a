"""Every setting, declared once: name, default, check, flags, help. Flags, tables and checks are made from here.

The names are gunicorn's wherever gunicorn has the thing. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal

from gserver import checks
from gserver.bind import Bind
from gserver.checks import Check
from gserver.errors import ConfigError
from gserver.hooks import HOOKS, Hooks

__all__ = ["ACCESS_LOG_FORMAT", "MAX_WORKERS", "Settings", "declared"]

GREENLETS = ("pooled", "dedicated")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
RELOAD_ENGINES = ("auto", "watchfiles", "poll")
ACCESS_LOG_FORMAT = '%(h)s %(t)s "%(r)s" %(M)s %(I)s %(O)s %(L)s'
# The scoreboard has twice as many places, for a reload may hold two workers for each.
MAX_WORKERS = 500


def _setting(
    group: str, default: Any, check: Check, *flags: str, help: str, fixed: bool = False, **argument: Any
) -> Any:
    """A field. `fixed`: a reload cannot change it. `argument`: what argparse needs beside."""
    metadata = {"group": group, "check": check, "flags": flags, "help": help, "fixed": fixed, "argument": argument}
    return dataclasses.field(default=check(default), metadata=metadata)


def _hook(name: str) -> Any:
    parameters, when = HOOKS[name]
    return _setting("Hooks", None, checks.function_of(*parameters), help=f"called {when}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings, checked."""

    # fmt: off
    bind: tuple[Bind, ...] = _setting(
        "Sockets", "127.0.0.1:3000", checks.binds, "-b", "--bind", metavar="ADDRESS", action="append",
        help="where to listen: HOST:PORT, [V6]:PORT, unix:PATH[,mode=660][,user=NAME][,group=NAME] or fd://N; "
             "may be repeated")
    backlog: int = _setting(
        "Sockets", 2048, checks.whole(1), "--backlog", metavar="N", fixed=True,
        help="connections that may wait to be accepted")
    reuse_port: bool = _setting(
        "Sockets", False, checks.switch, "--reuse-port", action="store_true", fixed=True,
        help="a listening socket for each worker, among which the kernel spreads new connections, instead of one that "
             "they share and take in turns")

    workers: int = _setting(
        "Workers", 1, checks.whole(1, MAX_WORKERS), "-w", "--workers", metavar="N", help="worker processes")
    worker_connections: int = _setting(
        "Workers", 10_000, checks.whole(1), "--worker-connections", metavar="N",
        help="connections that a worker holds at most; further ones wait to be accepted")
    max_requests: int = _setting(
        "Workers", 0, checks.whole(0), "--max-requests", metavar="N",
        help="messages after which a worker is replaced; 0: never")
    max_requests_jitter: int = _setting(
        "Workers", 0, checks.whole(0), "--max-requests-jitter", metavar="N",
        help="up to so many messages more, at random for each worker")
    worker_max_age: float = _setting(
        "Workers", 0, checks.seconds, "--worker-max-age", metavar="SECONDS",
        help="age at which a worker is replaced; 0: never")
    worker_max_age_jitter: float = _setting(
        "Workers", 0, checks.seconds, "--worker-max-age-jitter", metavar="SECONDS",
        help="up to so much older, at random for each worker")
    worker_max_rss: int = _setting(
        "Workers", 0, checks.size, "--worker-max-rss", metavar="BYTES",
        help="resident memory at which a worker is replaced, such as 512M; 0: never")
    worker_max_rss_jitter: int = _setting(
        "Workers", 0, checks.size, "--worker-max-rss-jitter", metavar="BYTES",
        help="up to so much more, at random for each worker")
    timeout: float = _setting(
        "Workers", 30, checks.seconds, "-t", "--timeout", metavar="SECONDS",
        help="how long a worker may be deaf before its stacks are logged and it is killed; 0: for ever")
    ready_timeout: float = _setting(
        "Workers", 30, checks.seconds, "--ready-timeout", metavar="SECONDS",
        help="how long a new worker may take to import the application and answer its probe; 0: for ever")
    graceful_timeout: float = _setting(
        "Workers", 30, checks.seconds, "--graceful-timeout", metavar="SECONDS",
        help="how long handlers may take to finish when their worker drains")
    drain_spread: float = _setting(
        "Workers", 1, checks.seconds, "--drain-spread", metavar="SECONDS",
        help="over how long a draining worker closes its connections, each at a random moment")
    reload_surge: int = _setting(
        "Workers", 1, checks.whole(1, MAX_WORKERS), "--reload-surge", metavar="N",
        help="workers that are started at a time to replace others")
    reload_settle: float = _setting(
        "Workers", 1, checks.seconds, "--reload-settle", metavar="SECONDS",
        help="how long the first worker of a reload must stay alive, ready, before it takes connections")
    preload_app: bool = _setting(
        "Workers", False, checks.switch, "--preload", action="store_true", fixed=True,
        help="import the application once, in a process that all workers are forked from")
    greenlets: Literal["pooled", "dedicated"] = _setting(
        "Workers", "pooled", checks.one_of(*GREENLETS), "--greenlets", metavar="SHAPE",
        help="pooled: a greenlet for every connection that has work; dedicated: for every connection")
    patch: bool = _setting(
        "Workers", True, checks.switch, "--no-patch", action="store_false",
        help="do not apply gevent's monkey-patching before the application is imported")

    reload: bool = _setting(
        "Development", False, checks.switch, "--reload", action="store_true", fixed=True,
        help="reload whenever a Python file under the working directory changes")
    reload_engine: str = _setting(
        "Development", "auto", checks.one_of(*RELOAD_ENGINES), "--reload-engine", metavar="ENGINE", fixed=True,
        help="watchfiles (must be installed), poll, or auto: the first that works")
    reload_extra_files: tuple[str, ...] = _setting(
        "Development", (), checks.texts, "--reload-extra-file", metavar="PATTERN", action="append", fixed=True,
        help="other files whose change reloads, as a glob pattern; may be repeated")

    chdir: str = _setting(
        "Process", ".", checks.directory, "--chdir", metavar="DIR", help="where the application is imported from")
    daemon: bool = _setting(
        "Process", False, checks.switch, "-D", "--daemon", action="store_true", fixed=True,
        help="go to the background; the command returns when the server is ready, or has failed")
    raw_env: tuple[str, ...] = _setting(
        "Process", (), checks.variables, "-e", "--env", metavar="NAME=VALUE", action="append",
        help="an environment variable for the workers; may be repeated")
    pidfile: str | None = _setting(
        "Process", None, checks.optional_text, "-p", "--pid", metavar="FILE", fixed=True,
        help="where the arbiter's process id is written")
    user: str | None = _setting(
        "Process", None, checks.user_name, "-u", "--user", metavar="USER", help="whom the workers run as")
    group: str | None = _setting(
        "Process", None, checks.group_name, "-g", "--group", metavar="GROUP", help="which group the workers run as")
    initgroups: bool = _setting(
        "Process", False, checks.switch, "--initgroups", action="store_true",
        help="give the workers the further groups of their user")
    umask: int | None = _setting(
        "Process", None, checks.file_mask, "-m", "--umask", metavar="MASK",
        help="permission bits, octal, that new files and unix sockets do not get")
    proc_name: str | None = _setting(
        "Process", None, checks.optional_text, "-n", "--name", metavar="NAME", fixed=True,
        help="what the processes are called in ps and top; needs setproctitle; default: the application")

    errorlog: str = _setting(
        "Logging", "-", checks.optional_text, "--error-logfile", "--log-file", metavar="FILE",
        help="where the log goes; -: standard error")
    loglevel: str = _setting(
        "Logging", "info", checks.one_of(*LOG_LEVELS), "--log-level", metavar="LEVEL",
        help=f"one of {', '.join(LOG_LEVELS)}")
    accesslog: str | None = _setting(
        "Logging", None, checks.optional_text, "--access-logfile", metavar="FILE",
        help="where a line for each closed connection goes; -: standard output")
    access_log_format: str = _setting(
        "Logging", ACCESS_LOG_FORMAT, checks.access_format, "--access-logformat", metavar="FORMAT",
        help="its form: %%(h)s peer, %%(t)s time, %%(r)s reason, %%(M)s messages, %%(I)s and %%(O)s bytes in and out, "
             "%%(L)s seconds of life, %%(p)s process")
    logconfig_dict: Mapping[str, Any] | None = _setting(
        "Logging", None, checks.log_configuration,
        help="logging.config.dictConfig() gets it, after everything else is set up")
    capture_output: bool = _setting(
        "Logging", False, checks.switch, "--capture-output", action="store_true", fixed=True,
        help="standard output and error of the workers go to the error log")

    on_starting: Any = _hook("on_starting")
    when_ready: Any = _hook("when_ready")
    pre_fork: Any = _hook("pre_fork")
    post_fork: Any = _hook("post_fork")
    post_worker_init: Any = _hook("post_worker_init")
    worker_int: Any = _hook("worker_int")
    worker_abort: Any = _hook("worker_abort")
    worker_exit: Any = _hook("worker_exit")
    child_exit: Any = _hook("child_exit")
    nworkers_changed: Any = _hook("nworkers_changed")
    on_reload: Any = _hook("on_reload")
    pre_exec: Any = _hook("pre_exec")
    on_exit: Any = _hook("on_exit")
    connection_open: Any = _hook("connection_open")
    connection_close: Any = _hook("connection_close")
    # fmt: on

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings with these values; ConfigError names the setting, the value and what is allowed."""
        fields = {field.name: field for field in declared()}
        good = {}
        for name, value in values.items():
            if name not in fields:
                raise ConfigError(_unknown(name, list(fields)))
            try:
                good[name] = fields[name].metadata["check"](value)
            except ValueError as error:
                raise ConfigError(f"setting {name} is {error}") from None
        return cls(**good)

    @property
    def hooks(self) -> Hooks:
        return Hooks({name: getattr(self, name) for name in HOOKS})

    def with_fixed_of(self, running: Settings) -> tuple[Settings, list[str]]:
        """These settings as a server that runs with `running` can take them over, and the names that it cannot."""
        fixed = {field.name: getattr(running, field.name) for field in declared() if field.metadata["fixed"]}
        changed = [name for name, value in fixed.items() if getattr(self, name) != value]
        return dataclasses.replace(self, **fixed), changed


def declared() -> tuple[dataclasses.Field[Any], ...]:
    """The settings, in the order in which they are explained."""
    return dataclasses.fields(Settings)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"unknown setting {name!r}" + (f", did you mean {near[0]!r}?" if near else ": see gserver --help")
