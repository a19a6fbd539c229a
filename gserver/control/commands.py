"""The commands of gserverctl: each makes its requests, prints the result, and returns the exit status.

run_...(server, arguments, parser): the connection to the server, the parsed arguments, and where output goes
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from gserver.command_parser import CommandParser, complain
from gserver.control import text_output
from gserver.control.client import SILENCE_S, ControlClient
from gserver.control.protocol import Problem
from gserver.control.record import STANDARD_OUTPUT, Output, record
from gserver.control.upgrade import upgrade
from gserver.errors import ConfigError

__all__ = [
    "DONE",
    "FAILED",
    "INCOMPLETE",
    "NO_SERVER",
    "USAGE",
    "UsageError",
    "run_close",
    "run_connection",
    "run_connections",
    "run_get",
    "run_listeners",
    "run_log_level",
    "run_profile",
    "run_ready",
    "run_record",
    "run_reload",
    "run_set",
    "run_stacks",
    "run_status",
    "run_stop",
    "run_top",
    "run_upgrade",
    "run_workers",
]

# Exit statuses.
DONE, FAILED, USAGE, NO_SERVER, INCOMPLETE = range(5)
# A reload and a stop take as long as the application and its drains do.
AS_LONG_AS_IT_TAKES = None

Values = dict[str, Any]


class UsageError(Exception):
    """Wrong usage that argparse does not find."""


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


def run_status(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    status = server.call("status")
    _show(parser, arguments, status, lambda: text_output.status_text(status, time.time()))
    return DONE if status["ready"] else FAILED


def run_workers(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    if arguments.now and arguments.action != "restart":
        raise UsageError("--now belongs to workers restart PID")
    if arguments.action is None:
        result = server.call("workers")
        return _show_rows(parser, arguments, result, text_output.worker_table)
    if (arguments.action == "restart") != (arguments.pid is not None):
        raise UsageError("workers restart needs a PID, the other actions take none")
    if arguments.action == "restart":
        options = {"now": True} if arguments.now else {}
        result = server.call("restart_worker", pid=arguments.pid, **options)
        text = f"worker {arguments.pid} will be {'killed and ' if arguments.now else ''}replaced\n"
    else:
        result = server.call(f"{arguments.action}_worker")
        text = f"the server goes on with {result['target']} workers\n"
    return _show(parser, arguments, result, lambda: text)


def run_listeners(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("listeners")
    return _show_rows(parser, arguments, result, text_output.listener_table)


def run_connections(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    given = {"sort": arguments.sort, "limit": arguments.limit, "where": ",".join(_conditions(arguments))}
    result = server.call("connections", **{name: value for name, value in given.items() if value not in (None, "")})
    return _show_rows(parser, arguments, result, text_output.connection_table)


def _conditions(arguments: argparse.Namespace) -> list[str]:
    """Of connections and close."""
    return [*arguments.where, *([f"listener={arguments.listener}"] if arguments.listener else [])]


def run_connection(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("connection", connection=arguments.id)
    return _show(parser, arguments, result, lambda: text_output.details(result))


def run_close(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    conditions = _conditions(arguments)
    conditions += [f"id={arguments.id}"] if arguments.id else []
    conditions += [f"addr={arguments.addr}"] if arguments.addr else []
    conditions += [f"worker={arguments.worker}"] if arguments.worker else []
    if not conditions:
        raise UsageError("close needs an ID, --addr, --listener, --worker or --where")
    result = server.call("close", where=",".join(conditions), now=arguments.now)
    return _show(parser, arguments, result, lambda: f"closed: {result['closed']:,}\n")


def run_ready(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("ready", on=arguments.state == "on")
    text = "load balancers are told that clients may come\n"
    if arguments.state == "off":
        text = "load balancers are told to send no clients; the server goes on serving\n"
    return _show(parser, arguments, result, lambda: text)


def run_reload(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("reload", limit_s=AS_LONG_AS_IT_TAKES)
    text = f"reloaded in {text_output.duration(result['seconds'])} ({result['kind']})\n"
    return _show(parser, arguments, result, lambda: text)


def run_stop(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("stop", quick=arguments.quick)
    server.wait_for_end(AS_LONG_AS_IT_TAKES)
    return _show(parser, arguments, result, lambda: f"the server with pid {result['pid']} has stopped\n")


def run_upgrade(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = upgrade(server, arguments.timeout)
    text = (
        f"upgraded: gserver {result['version']} with pid {result['pid']} serves, "
        f"gserver {result['old_version']} with pid {result['old_pid']} has stopped\n"
    )
    return _show(parser, arguments, result, lambda: text)


def run_stacks(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    """Of one worker, or of all: then those that do not answer are missing."""
    if arguments.pid is not None:
        return _show_stacks(parser, arguments, {arguments.pid: _stacks_of(server, arguments.pid)}, [])
    found, missing = {}, []
    for pid in _serving(server):
        try:
            found[pid] = _stacks_of(server, pid)
        except Problem as problem:
            missing.append({"pid": pid, "problem": _without_worker(str(problem), pid)})
    return _show_stacks(parser, arguments, found, missing)


def _without_worker(problem: str, pid: int) -> str:
    """The text of a problem without the worker, because the line about a missing worker begins with it."""
    return problem.removeprefix(f"worker {pid} is ").removeprefix(f"worker {pid}: ").removeprefix(f"worker {pid} ")


def _stacks_of(server: ControlClient, pid: int) -> str:
    return "".join(server.call("stacks", pid=pid).get("rows", []))


def _show_stacks(
    parser: CommandParser, arguments: argparse.Namespace, found: dict[int, str], missing: list[Values]
) -> int:
    text = "\n".join(f"Worker {pid}\n{stacks}" for pid, stacks in found.items())
    return _show(parser, arguments, {"stacks": found, "missing": missing}, lambda: text)


def _serving(server: ControlClient) -> list[int]:
    return [row["pid"] for row in server.call("workers").get("rows", []) if row["state"] in ("serving", "draining")]


def run_profile(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    limit_s = arguments.seconds + SILENCE_S  # the rows come at the end
    result = server.call("profile", limit_s=limit_s, pid=arguments.pid, seconds=arguments.seconds)
    stacks = "".join(result.pop("rows", []))
    complain("gserverctl", text_output.profile_summary(result))
    return _show(parser, arguments, {**result, "stacks": stacks.splitlines()}, lambda: stacks)


def run_record(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    if (arguments.id is None) == (arguments.addr is None):
        raise UsageError("record needs an ID or --addr")
    if arguments.output == STANDARD_OUTPUT and arguments.json:
        raise UsageError("--json prints to standard output, where -o - writes the transcript")
    if arguments.output == STANDARD_OUTPUT and not parser.has_output:
        raise ConfigError("cannot write to standard output: it is closed")
    asked = {"connection": arguments.id, "address": arguments.addr, "seconds": arguments.seconds}
    asked = {name: value for name, value in asked.items() if value is not None}
    output = Output(arguments.output, arguments.force)
    result = record(server, output, arguments.limit, **asked)
    for line in text_output.record_summary(result):
        complain("gserverctl", line)
    if arguments.json:
        parser.print_out(json.dumps(result, indent=2) + "\n")
    if result["missing"]:
        return INCOMPLETE
    return DONE if result["error"] is None else FAILED


def run_top(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    if importlib.util.find_spec("rich") is None:
        raise ConfigError("top needs rich: pip install 'gserver-tcp[top]'")
    from gserver.control.top import show

    show(server, arguments.interval, parser.print_out, arguments.rounds)
    return DONE


def run_get(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    result = server.call("settings")
    known = {row["name"]: row for row in result["rows"]}
    for name in arguments.names:
        if name not in known:
            raise UsageError(f"unknown setting {name!r}, must be one of: {', '.join(known)}")
    rows = [
        row
        for row in result["rows"]
        if (not arguments.names or row["name"] in arguments.names) and not (arguments.changed and row["is_default"])
    ]
    return _show(parser, arguments, {**result, "rows": rows}, lambda: text_output.setting_lines(rows))


def run_set(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    values = arguments.values
    return _change(server, arguments, parser, {arguments.name: values[0] if len(values) == 1 else values})


def run_log_level(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser) -> int:
    return _change(server, arguments, parser, {"loglevel": arguments.level})


def _change(server: ControlClient, arguments: argparse.Namespace, parser: CommandParser, values: Values) -> int:
    result = server.call("set", values=values)
    text = "".join(f"{name} = {text_output.value_text(value)}\n" for name, value in result["values"].items())
    return _show(parser, arguments, result, lambda: f"until the next reload or start: {text}")
