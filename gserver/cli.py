"""The command line `gserver [OPTIONS] APP`: parses argv, reads the settings, runs the arbiter."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gserver
from gserver.arbiter.arbiter import Arbiter
from gserver.arbiter.binary_upgrade import BinaryUpgrade, Command, Inheritance, take_inheritance
from gserver.arbiter.certificates import certificates_of
from gserver.arbiter.metrics_process import check_metrics
from gserver.arbiter.reload_requests import ReloadFailedError, request_reload
from gserver.arbiter.reloader import check_engine
from gserver.arbiter.stats_socket import read_stats
from gserver.command_parser import CommandParser, complain
from gserver.config.settings import Settings, declared
from gserver.config.sources import (
    CONCURRENCY,
    CONFIG_FILE,
    Configuration,
    add_arguments,
    as_text_without_secrets,
    parse_environment,
)
from gserver.config.working_directory import absolute, enter, name_entries, working_folder
from gserver.connection.native_fields import IS_NATIVE
from gserver.errors import ConfigError
from gserver.metrics.exporter import run_metrics
from gserver.process import logs
from gserver.process.daemon import Daemon
from gserver.process.proctitle import find_title, set_title
from gserver.process.systemd import take_sockets
from gserver.user_errors import described
from gserver.worker.applications import Applications, CannotImport
from gserver.worker.preload_process import run_preload_process
from gserver.worker.readiness_check import check_ready, try_start
from gserver.worker.worker import apply_settings, load, run_worker, start_offload

__all__ = ["main"]

log = logging.getLogger("gserver")


def main(argv: Sequence[str], has_output: bool = True) -> int:
    """Run the server, or another command in `argv`, until it ends; return the exit status.

    Args:
        has_output: whether standard output is open; if not, commands that print something fail.
    """
    try:
        return _run(_parser(has_output), argv)
    except ConfigError as error:
        complain("gserver", str(error))
        return 1
    except KeyboardInterrupt:  # while the arbiter waited for an address
        return 128 + signal.SIGINT


def _parser(has_output: bool) -> CommandParser:
    parser = CommandParser(
        prog="gserver",
        usage="gserver [OPTIONS] APP",
        description="Serve raw TCP. APP is MODULE:NAME, MODULE:FACTORY(ARGS), or a built-in service: echo, json.",
        epilog="Settings can also be given in a Python config file (-c), and, as flags, in the environment variable "
        "GSERVER_CMD_ARGS. Times are in seconds. All settings: docs/settings.md",
    )
    parser.has_output = has_output
    parser.add_argument("app", metavar="APP", nargs="?", help="application to serve; none with the setting listeners")
    parser.add_argument("-c", "--config", metavar="FILE", help=f"Python config file (default ./{CONFIG_FILE})")
    parser.add_argument(
        "-v", "--version", action="version", version=f"gserver {gserver.__version__}", help="print the version and exit"
    )
    commands = parser.add_argument_group("Commands (instead of serving)")
    commands.add_argument(
        "--check-config",
        action="store_true",
        help="validate the settings, start the application as a worker does, and exit",
    )
    commands.add_argument("--print-config", action="store_true", help="print all settings and exit")
    commands.add_argument(
        "--reload-pid",
        metavar="PIDFILE",
        help="reload the server with this pid file, wait for the end, print whether the workers are new ones, and exit "
        "with 0 if the reload succeeded, else 1",
    )
    commands.add_argument(
        "--stats",
        metavar="PATH",
        help="print the counters of the server with this stats socket, as JSON, and exit with 0 if a worker serves, "
        "else 1 (a health check)",
    )
    add_arguments(parser)
    return parser


def _run(parser: CommandParser, argv: Sequence[str]) -> int:
    arguments = vars(parser.parse_args(argv))
    app, config, check, show, pidfile, stats = [
        arguments.pop(name) for name in ("app", "config", "check_config", "print_config", "reload_pid", "stats")
    ]
    if pidfile is not None:
        return _reload(parser, pidfile)
    if stats is not None:
        return _print_stats(parser, stats)
    find_title()
    inheritance = take_inheritance(os.environ)
    try:
        return _serve(parser, inheritance, app, config, arguments, check=check, show=show)
    except ConfigError as error:
        inheritance.report(failed_because=str(error))
        raise
    except Exception as error:
        inheritance.report(failed_because=described(error))
        raise


def _serve(
    parser: CommandParser,
    inheritance: Inheritance,
    app: str | None,
    config: str | None,
    arguments: dict[str, Any],
    *,
    check: bool,
    show: bool,
) -> int:
    """Serve, or check or print the settings of a server."""
    sockets = inheritance.activated or take_sockets(os.environ, os.getpid())
    if config is None and os.path.exists(CONFIG_FILE):
        config = CONFIG_FILE
    folder = working_folder()
    name_entries(sys.path, os.environ.get("PYTHONPATH", ""))
    configuration = Configuration(
        None if config is None else absolute(config),
        parse_environment(os.environ),
        arguments,
        tuple(sockets),
        folder,
        os.environ.get(CONCURRENCY, ""),
        app,
    )
    settings = configuration.read()
    if show:
        parser.print_out(_shown(settings))
        return 0
    check_engine(settings.reload_engine)
    check_metrics(settings.metrics_bind)
    if app is None and not settings.listeners:
        parser.error("the following arguments are required: APP")
    applications = Applications(settings, app)
    if check:
        _check_config(settings, applications)
        parser.print_out(f"gserver: {applications.title} can be served\n")
        return 0
    upgrade = BinaryUpgrade(Command.of_this_process(), inheritance)
    daemon = Daemon.detach() if settings.daemon and not upgrade.has_old_arbiter else None
    enter(settings.chdir)
    if settings.umask is not None:
        os.umask(settings.umask)
    logs.configure(settings)
    name = settings.proc_name or applications.title
    set_title("arbiter", name)
    log.info("Starting gserver %s%s", gserver.__version__, "" if IS_NATIVE else ", not compiled")
    serve, preload = functools.partial(run_worker, app), functools.partial(run_preload_process, app)
    metrics = functools.partial(run_metrics, name)
    return Arbiter(configuration, settings, serve, preload, metrics, upgrade, daemon, name).run()


def _reload(parser: CommandParser, pidfile: str) -> int:
    try:
        how = request_reload(pidfile)
    except ReloadFailedError as error:
        complain("gserver", f"the reload failed: {error}")
        return 1
    parser.print_out(f"gserver: reloaded {how}".rstrip() + "\n")
    return 0


def _print_stats(parser: CommandParser, path: str) -> int:
    """Print the counters as JSON; ConfigError if no worker serves, so that the exit status is 1."""
    document = read_stats(path)
    parser.print_out(json.dumps(document, indent=2) + "\n")
    if not document.get("healthy", True):
        raise ConfigError(document["problem"])
    return 0


def _shown(settings: Settings) -> str:
    lines = []
    for setting in declared():
        value = as_text_without_secrets(setting, getattr(settings, setting.name))
        lines.append(f"{setting.name} = {value}\n")
    return "".join(lines)


def _check_config(settings: Settings, applications: Applications) -> None:
    """Start the applications as a worker does, without the hooks; ConfigError, in one line, if that fails."""
    certificates_of(settings)
    ready_s = settings.ready_timeout or None

    def load_and_fit() -> dict[str, Any]:
        try:
            served = load(settings, applications)
        except CannotImport as failure:
            cause = failure.__cause__
            raise ConfigError(f"{failure.text!r} cannot be imported: {cause and described(cause)}") from None
        applications.each(served, lambda each, at: apply_settings(each, settings, at))
        start_offload(settings, applications.modules)
        if settings.bus is not None:
            from gserver.bus.redis_connections import Connections  # late: it imports gevent

            Connections(settings.bus)
        return served

    def check(served: Mapping[str, Any], began_at: float) -> None:
        applications.each(served, lambda each, at: check_ready(each, ready_s, began_at, listener_name=at[0].name))

    try_start(", ".join(map(repr, applications.texts)), load_and_fit, check, ready_s)
