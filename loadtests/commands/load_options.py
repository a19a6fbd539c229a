"""What of a profile a command line may change, and how numbers, files and addresses on it are read."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gserver.codecs import CODECS
from loadtests.host.subprocesses import START_PATIENCE_S
from loadtests.text_encoding import as_text
from loadtests.url import host_name
from loadtests.users.locustfile_check import check_users
from loadtests.workloads.custom_message import asked_of
from loadtests.workloads.profiles import PROFILES, Profile

__all__ = ["MASTER_PORT", "add_run_options", "at_least", "host_and_port", "own_users", "profile_of"]

#: Where the master of a swarm listens: Locust's own.
MASTER_PORT = 5557


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """An option for each thing."""
    load = parser.add_argument_group("the load, where it is to differ from the profile's")
    load.add_argument("--users", type=at_least(1, int), metavar="N", help="sockets")
    load.add_argument("--duration", type=at_least(1, int), metavar="SECONDS", help="whole seconds that are measured")
    load.add_argument(
        "--rate", type=at_least(0, float), metavar="R", help="tasks (exchanges) a second of each socket; 0: no pause"
    )
    load.add_argument("--connects", type=at_least(1, int), metavar="N", help="connects a second")
    load.add_argument("--payload", type=at_least(1, int), metavar="BYTES", help="of an echoed message")
    load.add_argument("--depth", type=at_least(1, int), metavar="N", help="with --rate 0: messages in flight on each")
    load.add_argument(
        "--message", type=as_text, metavar="TEXT", help="send this; \\n, \\r, \\t, \\0, \\\\ and \\xHH are understood"
    )
    load.add_argument("--codec", metavar="NAME", help=f"how it is framed: {', '.join(CODECS)} (default lines)")
    load.add_argument("--expect", type=as_text, metavar="TEXT", help="the reply to it (default: any)")
    load.add_argument("--file", type=Path, metavar="FILE", help="a Locust file with a TcpUser of one's own")
    load.add_argument("--user", metavar="CLASS", help="its name")
    parser.add_argument(
        "--start-timeout", type=at_least(0.1, float), metavar="SECONDS",
        help=f"for a server that is started here, until it answers (default {START_PATIENCE_S:g})",
    )  # fmt: skip


def at_least(minimum: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    """What argparse makes a number by."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r}, must be a number of at least {minimum}")
        return value

    return parse


def host_and_port(text: str) -> tuple[str, int]:
    """HOST:PORT, [V6]:PORT, or HOST with the port of a master."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") and text.count(":") else (text, "", "")
    number = int(port) if port.isascii() and port.isdigit() else MASTER_PORT if not colon else 0
    if not host or not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}, must be HOST:PORT or [V6]:PORT")
    try:
        return host_name(host.strip("[]")), number
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def profile_of(arguments: argparse.Namespace, name: str) -> Profile:
    """A profile with what was asked for; ValueError says what is wrong."""
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: expected one of {', '.join(PROFILES)}")
    given: dict[str, Any] = {
        "sockets": arguments.users,
        "duration_s": arguments.duration,
        "rate": arguments.rate,
        "connects_per_s": arguments.connects,
        "payload_bytes": arguments.payload,
        "depth": arguments.depth,
        "workers": arguments.workers,
        **_spoken(arguments),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PROFILES[name], **changes)


def _spoken(arguments: argparse.Namespace) -> dict[str, Any]:
    """Who speaks to the server, where that is not the profile's user."""
    if (arguments.file is None) != (arguments.user is None):
        raise ValueError("--file and --user go together: a Locust file, and the class in it that is to be used")
    if arguments.file is not None:
        file = own_users(arguments.file, arguments.user)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        return {"file": str(file), "file_digest": digest, "user": arguments.user}
    if arguments.message is None:
        for option in ("codec", "expect"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option} is about a --message, and there is none")
        return {}
    asked_of(arguments.message, arguments.codec or Profile.codec, arguments.expect or "")
    user = {"user": "MessageUser", "message": arguments.message, "codec": arguments.codec, "expect": arguments.expect}
    return user if arguments.host else {**user, "app": "echo"}


def own_users(file: Path, user: str | None = None) -> Path:
    """A Locust file by its whole path; ValueError if it cannot be used, or if it has no class `user`."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    check_users(file, user)
    return file.resolve()
