"""The command line `gserverctl [-s SOCKET] COMMAND`: inspects and steers a running server.

Exit statuses: 0 done; 1 the server refused or failed; 2 wrong usage, or several servers and no -s; 3 no server could
be reached; 4 done, but some workers did not answer.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import gserver
from gserver.command_parser import CommandParser, complain
from gserver.config import validators
from gserver.config.settings import LOG_LEVELS
from gserver.control import commands
from gserver.control.client import ControlClient, Unreachable
from gserver.control.commands import FAILED, NO_SERVER, USAGE, UsageError
from gserver.control.protocol import Problem
from gserver.control.selection import NUMBERS, SORT_KEYS, STATES
from gserver.control.socket_path import default_folder, sockets_in
from gserver.errors import ConfigError
from gserver.process.daemon import drop_unwritten, open_standard

__all__ = ["entry_point", "main"]

UPGRADE_S = 60.0
RECORD_BYTES = 64 * 1024 * 1024

#: Adds a command: its name, its function and its help.
Add = Callable[..., argparse.ArgumentParser]


def entry_point() -> NoReturn:
    """Run the command line of this process, and exit with its status."""
    closed = open_standard()
    try:
        sys.exit(main(sys.argv[1:], 1 not in closed))
    finally:
        drop_unwritten()


def main(argv: Sequence[str], has_output: bool = True) -> int:
    """Run one command; return the exit status."""
    parser = _parser(has_output)
    try:
        arguments = parser.parse_args(argv)
        with _connect(arguments.socket) as server:
            return int(arguments.run(server, arguments, parser))
    except UsageError as error:
        complain("gserverctl", str(error))
        return USAGE
    except (Problem, ConfigError) as error:
        complain("gserverctl", str(error))
        return FAILED
    except Unreachable as error:
        complain("gserverctl", str(error))
        return NO_SERVER
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


# The server


def _connect(path: str | None) -> ControlClient:
    """Connect to the server at `path`, or to the only one of this user."""
    if path is not None:
        return ControlClient(path)
    folder = default_folder(os.environ, os.geteuid())
    if folder is None:
        raise Unreachable("no control socket: XDG_RUNTIME_DIR is not set; name one with -s")
    found = [client for path in sockets_in(folder) if (client := _reached(path)) is not None]
    if not found:
        raise Unreachable(f"no server of this user runs with a control socket in {folder}")
    if len(found) > 1:
        servers = "; ".join(map(_introduced, found))
        raise UsageError(f"several servers run, choose one with -s: {servers}")
    return found[0]


def _reached(path: str) -> ControlClient | None:
    try:
        return ControlClient(path)
    except Unreachable:  # it was killed
        return None


def _introduced(client: ControlClient) -> str:
    try:
        status = client.call("status", limit_s=2.0)
    except (Unreachable, Problem) as error:
        return f"{client.path} ({error})"
    return f"{client.path} (pid {status['pid']}, {status['name']}, {', '.join(status['listeners'])})"


# The arguments


def _parser(has_output: bool) -> CommandParser:
    parser = CommandParser(
        prog="gserverctl",
        description="Inspect and steer a running gserver.",
        epilog="Exit statuses: 0 done; 1 the server refused or failed, or is not ready (status); 2 wrong usage, or "
        "several servers and no -s; 3 no server could be reached; 4 done, but some workers did not answer.",
    )
    parser.has_output = has_output
    parser.add_argument("-s", "--socket", metavar="PATH", help="control socket (default: that of the only server)")
    parser.add_argument("-v", "--version", action="version", version=f"gserverctl {gserver.__version__}")
    subparsers = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )

    def add(name: str, run: Callable[..., int], help: str, has_json: bool = True) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        command.has_output = has_output
        command.set_defaults(run=run)
        if has_json:
            command.add_argument("--json", action="store_true", help="print the reply of the server as JSON")
        return command

    _add_inspection(add)
    _add_steering(add)
    return parser


def _add_inspection(add: Add) -> None:
    add("status", commands.run_status, "show the state of the server; the exit status is 1 if it is not ready")
    workers = add("workers", commands.run_workers, "list the workers, or add, remove or restart one")
    workers.add_argument("action", nargs="?", choices=("add", "remove", "restart"))
    workers.add_argument("pid", nargs="?", type=int, metavar="PID", help="the worker to restart")
    workers.add_argument(
        "--now", action="store_true", help="restart without a drain: log its stacks and kill it, because it is stuck"
    )
    add("listeners", commands.run_listeners, "list the addresses that are listened on")
    connections = add("connections", commands.run_connections, "list connections")
    connections.add_argument("--sort", choices=SORT_KEYS, help="what to sort by, the largest first (default age)")
    connections.add_argument("--limit", type=int, metavar="N", help="the most connections to list (default: all)")
    _add_where(connections)
    connection = add("connection", commands.run_connection, "show everything about one connection")
    connection.add_argument("id", metavar="ID")
    close = add("close", commands.run_close, "close connections after the reply that is due")
    close.add_argument("id", nargs="?", metavar="ID")
    close.add_argument("--addr", metavar="A", help="connections of this address or network")
    close.add_argument("--worker", metavar="PID", help="connections of this worker")
    close.add_argument("--now", action="store_true", help="kill the handler, and discard what is unsent")
    _add_where(close)
    stacks = add("stacks", commands.run_stacks, "show the stacks of the handlers that wait")
    stacks.add_argument("pid", nargs="?", type=int, metavar="PID", help="of this worker (default: of all)")
    profile = add(
        "profile",
        commands.run_profile,
        "sample the code of a worker; prints collapsed stacks, as flamegraph.pl and speedscope take them",
    )
    profile.add_argument("pid", type=int, metavar="PID", help="the worker")
    profile.add_argument(
        "--seconds", type=_seconds, default=10.0, metavar="N", help="how long (default 10, at most 300)"
    )
    record = add("record", commands.run_record, "write what a connection receives and sends to a file, until Ctrl-C")
    record.add_argument("id", nargs="?", metavar="ID", help="the connection")
    record.add_argument(
        "--addr", metavar="A", help="the connections of this address or network, also those that come meanwhile"
    )
    record.add_argument("-o", "--output", required=True, metavar="FILE", help="the transcript; -: standard output")
    record.add_argument("--force", action="store_true", help="replace FILE if it exists")
    record.add_argument("--for", dest="seconds", type=_seconds, metavar="SECONDS", help="end after this time")
    record.add_argument(
        "--limit",
        type=_bytes,
        default=RECORD_BYTES,
        metavar="BYTES",
        help="end after so much data, such as 10M (default 64M)",
    )
    top = add("top", commands.run_top, "show the workers and the busiest connections, live; needs rich", False)
    top.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between readings (default 2)")
    top.add_argument("--rounds", type=_count, metavar="N", help="end after so many readings")


def _add_steering(add: Add) -> None:
    ready = add(
        "ready", commands.run_ready, "tell load balancers whether to send clients here; the server goes on serving"
    )
    ready.add_argument("state", choices=("off", "on"))
    get = add("get", commands.run_get, "show settings, all or some")
    get.add_argument("names", nargs="*", metavar="NAME", help="of a setting, as in docs/settings.md (default: all)")
    get.add_argument("--changed", action="store_true", help="only those that differ from their default")
    set_ = add("set", commands.run_set, "change a live setting, in all workers, until the next reload or start")
    set_.add_argument("name", metavar="NAME", help="of a setting")
    set_.add_argument("values", nargs="*", metavar="VALUE", help="several, or none, for a list such as allow")
    level = add("log-level", commands.run_log_level, "change the level of the error log until the next reload or start")
    level.add_argument("level", choices=LOG_LEVELS)
    add("reload", commands.run_reload, "reload as HUP does, and wait for the result")
    stop = add("stop", commands.run_stop, "stop the server, and wait for its end")
    stop.add_argument("--quick", action="store_true", help="allow a second for replies that are due, as QUIT does")
    upgrade_ = add(
        "upgrade",
        commands.run_upgrade,
        "start a new server on the same sockets, wait until it is ready, stop the old one",
    )
    upgrade_.add_argument(
        "--timeout",
        type=_seconds,
        default=UPGRADE_S,
        metavar="SECONDS",
        help=f"how long the new server may take to be ready (default {UPGRADE_S:g}); then it is stopped",
    )


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def _bytes(text: str) -> int:
    with contextlib.suppress(ValueError):
        size = validators.size(text)
        if size > 0:
            return int(size)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes above 0, such as 65536, 64K or 10M")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        count = int(text)
        if count > 0:
            return count
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listener", metavar="NAME", help="connections of this listener")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITIONS",
        help="only those that fulfil all conditions, such as addr=10.0.0.0/8,state=handling,idle>60; NAME=TEXT with "
        f"id, addr, state ({', '.join(STATES)}), listener, tls (yes, no) and worker; NAME>NUMBER and NAME<NUMBER with "
        f"{', '.join(NUMBERS)}, in seconds and bytes",
    )
