"""The command line `gserverctl [-s SOCKET] COMMAND`: inspects and steers a running server.

Exit statuses: 0 done; 1 the server refused or failed; 2 wrong usage, or several servers and no -s; 3 no server could
be reached; 4 done, but some workers did not answer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import gserver
from gserver.command_parser import CommandParser, complain
from gserver.config.settings import LOG_LEVELS
from gserver.control import text_output
from gserver.control.client import ControlClient, Unreachable
from gserver.control.protocol import Problem
from gserver.control.selection import NUMBERS, SORT_KEYS, STATES
from gserver.control.socket_path import default_folder, sockets_in
from gserver.control.upgrade import upgrade
from gserver.errors import ConfigError
from gserver.process.daemon import drop_unwritten, open_standard

__all__ = ["entry_point", "main"]

DONE, FAILED, USAGE, NO_SERVER, INCOMPLETE = range(5)
# A reload and a stop take as long as the application and its drains do.
AS_LONG_AS_IT_TAKES = None
UPGRADE_S = 60.0

Values = dict[str, Any]


class _Usage(Exception):
    """Wrong usage that argparse does not find."""


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
    except _Usage as error:
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
        raise _Usage(f"several servers run, choose one with -s: {servers}")
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


# The commands. Each returns the exit status.


def _show(parser: CommandParser, arguments: argparse.Namespace, result: Values, text: Callable[[], str]) -> int:
    """Print a result, as JSON if that is wanted; return the exit status."""
    parser.print_out(json.dumps(result, indent=2) + "\n" if arguments.json else text())
    missing = result.get("missing", [])
    for each in missing:
        complain("gserverctl", f"worker {each['pid']} is missing: {each['problem']}")
    return INCOMPLETE if missing else DONE


def _show_rows(
    parser: CommandParser, arguments: argparse.Namespace, result: Values, text: Callable[[Sequence[Values]], str]
) -> int:
    rows = result.get("rows", [])
    return _show(parser, arguments, result, lambda: text(rows))


def _status(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    status = server.call("status")
    _show(parser, arguments, status, lambda: text_output.status_text(status, time.time()))
    return DONE if status["ready"] else FAILED


def _workers(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    if arguments.action is None:
        result = server.call("workers")
        return _show_rows(parser, arguments, result, text_output.worker_table)
    if (arguments.action == "restart") != (arguments.pid is not None):
        raise _Usage("workers restart needs a PID, the other actions take none")
    if arguments.action == "restart":
        result = server.call("restart_worker", pid=arguments.pid)
        text = f"worker {arguments.pid} will be replaced\n"
    else:
        result = server.call(f"{arguments.action}_worker")
        text = f"the server goes on with {result['target']} workers\n"
    return _show(parser, arguments, result, lambda: text)


def _listeners(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("listeners")
    return _show_rows(parser, arguments, result, text_output.listener_table)


def _connections(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    given = {"sort": arguments.sort, "limit": arguments.limit, "where": ",".join(arguments.where)}
    result = server.call("connections", **{name: value for name, value in given.items() if value not in (None, "")})
    return _show_rows(parser, arguments, result, text_output.connection_table)


def _connection(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("connection", connection=arguments.id)
    return _show(parser, arguments, result, lambda: text_output.details(result))


def _close(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    conditions = [*arguments.where]
    conditions += [f"id={arguments.id}"] if arguments.id else []
    conditions += [f"addr={arguments.addr}"] if arguments.addr else []
    conditions += [f"worker={arguments.worker}"] if arguments.worker else []
    if not conditions:
        raise _Usage("close needs an ID, --addr, --worker or --where")
    result = server.call("close", where=",".join(conditions), now=arguments.now)
    return _show(parser, arguments, result, lambda: f"closed: {result['closed']:,}\n")


def _ready(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("ready", on=arguments.state == "on")
    text = "load balancers are told that clients may come\n"
    if arguments.state == "off":
        text = "load balancers are told to send no clients; the server goes on serving\n"
    return _show(parser, arguments, result, lambda: text)


def _reload(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("reload", limit_s=AS_LONG_AS_IT_TAKES)
    text = f"reloaded in {text_output.duration(result['seconds'])} ({result['kind']})\n"
    return _show(parser, arguments, result, lambda: text)


def _stop(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("stop", quick=arguments.quick)
    server.wait_for_end(AS_LONG_AS_IT_TAKES)
    return _show(parser, arguments, result, lambda: f"the server with pid {result['pid']} has stopped\n")


def _upgrade(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = upgrade(server, arguments.timeout)
    text = (
        f"upgraded: gserver {result['version']} with pid {result['pid']} serves, "
        f"gserver {result['old_version']} with pid {result['old_pid']} has stopped\n"
    )
    return _show(parser, arguments, result, lambda: text)


def _stacks(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    pids = [arguments.pid] if arguments.pid is not None else _serving(server)
    found = {pid: "".join(server.call("stacks", pid=pid).get("rows", [])) for pid in pids}
    text = "\n".join(f"Worker {pid}\n{stacks}" for pid, stacks in found.items())
    return _show(parser, arguments, {"stacks": found}, lambda: text)


def _serving(server: ControlClient) -> list[int]:
    return [row["pid"] for row in server.call("workers").get("rows", []) if row["state"] in ("serving", "draining")]


def _profile(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("profile", pid=arguments.pid, seconds=arguments.seconds)
    stacks = "".join(result.pop("rows", []))
    complain("gserverctl", text_output.profile_summary(result))
    return _show(parser, arguments, {**result, "stacks": stacks.splitlines()}, lambda: stacks)


def _top(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    if importlib.util.find_spec("rich") is None:
        raise ConfigError("top needs rich: pip install 'gserver-tcp[top]'")
    from gserver.control.top import show

    show(server, arguments.interval, rounds=arguments.rounds)
    return DONE


def _get(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("settings")
    known = {row["name"]: row for row in result["rows"]}
    for name in arguments.names:
        if name not in known:
            raise _Usage(f"unknown setting {name!r}, must be one of: {', '.join(known)}")
    rows = [
        row
        for row in result["rows"]
        if (not arguments.names or row["name"] in arguments.names) and not (arguments.changed and row["is_default"])
    ]
    return _show(parser, arguments, {**result, "rows": rows}, lambda: text_output.setting_lines(rows))


def _set(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    values = arguments.values
    return _change(server, arguments, parser, {arguments.name: values[0] if len(values) == 1 else values})


def _log_level(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    return _change(server, arguments, parser, {"loglevel": arguments.level})


def _change(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser, values: Values) -> int:
    result = server.call("set", values=values)
    text = "".join(f"{name} = {text_output.value_text(value)}\n" for name, value in result["values"].items())
    return _show(parser, arguments, result, lambda: f"until the next reload or start: {text}")


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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)

    def add(name: str, run: Callable[..., int], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        command.has_output = has_output
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print the reply of the server as JSON")
        return command

    add("status", _status, "show the state of the server; the exit status is 1 if it is not ready")
    workers = add("workers", _workers, "list the workers, or add, remove or restart one")
    workers.add_argument("action", nargs="?", choices=("add", "remove", "restart"))
    workers.add_argument("pid", nargs="?", type=int, metavar="PID", help="the worker to restart")
    add("listeners", _listeners, "list the addresses that are listened on")
    connections = add("connections", _connections, "list connections")
    connections.add_argument("--sort", choices=SORT_KEYS, help="what to sort by, the largest first (default age)")
    connections.add_argument("--limit", type=int, metavar="N", help="the most connections to list (default: all)")
    _add_where(connections)
    connection = add("connection", _connection, "show everything about one connection")
    connection.add_argument("id", metavar="ID")
    close = add("close", _close, "close connections after the reply that is due")
    close.add_argument("id", nargs="?", metavar="ID")
    close.add_argument("--addr", metavar="A", help="connections of this address or network")
    close.add_argument("--worker", metavar="PID", help="connections of this worker")
    close.add_argument("--now", action="store_true", help="kill the handler, and discard what is unsent")
    _add_where(close)
    ready = add("ready", _ready, "tell load balancers whether to send clients here; the server goes on serving")
    ready.add_argument("state", choices=("off", "on"))
    upgrade_ = add(
        "upgrade", _upgrade, "start a new server on the same sockets, wait until it is ready, stop the old one"
    )
    upgrade_.add_argument(
        "--timeout",
        type=_seconds,
        default=UPGRADE_S,
        metavar="SECONDS",
        help=f"how long the new server may take to be ready (default {UPGRADE_S:g}); then it is stopped",
    )
    stacks = add("stacks", _stacks, "show the stacks of the handlers that wait")
    stacks.add_argument("pid", nargs="?", type=int, metavar="PID", help="of this worker (default: of all)")
    profile = add(
        "profile", _profile, "sample the code of a worker; prints collapsed stacks, for flamegraph.pl and speedscope"
    )
    profile.add_argument("pid", type=int, metavar="PID")
    profile.add_argument("--seconds", type=_seconds, default=10.0, metavar="N", help="how long (default 10)")
    top = add("top", _top, "show the workers and the busiest connections, live; needs rich")
    top.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between readings (default 2)")
    top.add_argument("--rounds", type=int, metavar="N", help="end after so many readings")
    get = add("get", _get, "show settings, all or some")
    get.add_argument("names", nargs="*", metavar="NAME")
    get.add_argument("--changed", action="store_true", help="only those that differ from their default")
    set_ = add("set", _set, "change a live setting, in all workers, until the next reload or start")
    set_.add_argument("name", metavar="NAME")
    set_.add_argument("values", nargs="*", metavar="VALUE", help="several, or none, for a list such as allow")
    level = add("log-level", _log_level, "change the level of the error log until the next reload or start")
    level.add_argument("level", choices=LOG_LEVELS)
    add("reload", _reload, "reload as HUP does, and wait for the result")
    stop = add("stop", _stop, "stop the server, and wait for its end")
    stop.add_argument("--quick", action="store_true", help="allow a second for replies that are due, as QUIT does")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITIONS",
        help="only those that fulfil all conditions, such as addr=10.0.0.0/8,state=handling,idle>60; NAME=TEXT with "
        f"id, addr, state ({', '.join(STATES)}), listener, tls (yes, no) and worker; NAME>NUMBER and NAME<NUMBER with "
        f"{', '.join(NUMBERS)}, in seconds and bytes",
    )
