"""Options that change the load of a profile, and parsers for numbers, files and addresses on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gserver.codecs import CODECS
from loadtests.host.subprocesses import START_PATIENCE_S
from loadtests.text_encoding import as_text
from loadtests.url import host_name
from loadtests.users.locustfile_check import check_users
from loadtests.workloads.custom_message import parse_message
from loadtests.workloads.profiles import PROFILES, Profile

__all__ = [
    "MASTER_PORT",
    "LoadOptions",
    "add_load_options",
    "add_start_timeout",
    "at_least",
    "changed_profile",
    "checked_locustfile",
    "host_and_port",
    "load_options",
    "profile_names",
]

#: Locust's own default port for a master.
MASTER_PORT = 5557


@dataclass(frozen=True)
class LoadOptions:
    """Changes to the load of a profile; None: as the profile has it.

    Attributes:
        duration_s: whole seconds of the measure phase.
        rate: tasks (exchanges) per second and socket; 0: no pause.
        payload_bytes: size of an echoed message.
        depth: with rate 0, messages in flight on each connection.
        message, codec, expect: of a MessageUser.
        file, user: a Locust file and the class in it; both or none.
    """

    users: int | None = None
    duration_s: int | None = None
    rate: float | None = None
    connects_per_s: int | None = None
    payload_bytes: int | None = None
    depth: int | None = None
    message: str | None = None
    codec: str | None = None
    expect: str | None = None
    file: Path | None = None
    user: str | None = None


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add two groups of options: the load, and what the users send."""
    load = parser.add_argument_group("load (default: as in the profile)")
    load.add_argument("--users", type=at_least(1, int), metavar="N", help="number of users; each has one connection")
    load.add_argument("--duration", type=at_least(1, int), metavar="SECONDS", help="length of the measure phase")
    load.add_argument(
        "--rate", type=at_least(0, float), metavar="R", help="tasks (exchanges) per second and user; 0: no pause"
    )
    load.add_argument("--connects", type=at_least(1, int), metavar="N", help="new connections per second")
    load.add_argument("--payload", type=at_least(1, int), metavar="BYTES", help="size of an echoed message")
    load.add_argument(
        "--depth", type=at_least(1, int), metavar="N", help="messages in flight per connection, with --rate 0"
    )
    users = parser.add_argument_group("custom messages, or a Locust file")
    users.add_argument(
        "--message", type=as_text, metavar="TEXT", help=r"send this text; \n, \r, \t, \0, \\ and \xHH are escapes"
    )
    users.add_argument("--codec", metavar="NAME", help=f"framing of the message: {', '.join(CODECS)} (default lines)")
    users.add_argument("--expect", type=as_text, metavar="TEXT", help="the expected reply (default: any reply)")
    users.add_argument("--file", type=Path, metavar="FILE", help="a Locust file; needs --user")
    users.add_argument("--user", metavar="CLASS", help="the TcpUser class in that file")


def add_start_timeout(parser: argparse._ActionsContainer) -> None:
    """Add --start-timeout."""
    parser.add_argument(
        "--start-timeout", type=at_least(0.1, float), metavar="SECONDS",
        help=f"how long a server that is started here may take until it replies (default {START_PATIENCE_S:g})",
    )  # fmt: skip


def load_options(arguments: argparse.Namespace) -> LoadOptions:
    """The parsed options of add_load_options()."""
    return LoadOptions(
        users=arguments.users,
        duration_s=arguments.duration,
        rate=arguments.rate,
        connects_per_s=arguments.connects,
        payload_bytes=arguments.payload,
        depth=arguments.depth,
        message=arguments.message,
        codec=arguments.codec,
        expect=arguments.expect,
        file=arguments.file,
        user=arguments.user,
    )


def profile_names() -> str:
    """For a help text."""
    return f"one of {', '.join(PROFILES)}"


def at_least(minimum: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    """A type for argparse: a finite number of at least `minimum`."""

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
    """A type for argparse: HOST:PORT, [V6]:PORT, or HOST with MASTER_PORT."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") and text.count(":") else (text, "", "")
    number = int(port) if port.isascii() and port.isdigit() else MASTER_PORT if not colon else 0
    if not host or not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text!r}, must be HOST:PORT or [V6]:PORT")
    try:
        return host_name(host.strip("[]")), number
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def changed_profile(name: str, load: LoadOptions, workers: int | None, starts_server: bool = True) -> Profile:
    """The profile `name` with the changed load; ValueError for an unknown profile or a wrong option.

    starts_server: a server is started here, so --message gets an echo server.
    """
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: expected {profile_names()}")
    given: dict[str, Any] = {
        "sockets": load.users,
        "duration_s": load.duration_s,
        "rate": load.rate,
        "connects_per_s": load.connects_per_s,
        "payload_bytes": load.payload_bytes,
        "depth": load.depth,
        "workers": workers,
        **_user_of(load, starts_server),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PROFILES[name], **changes)


def _user_of(load: LoadOptions, starts_server: bool) -> dict[str, Any]:
    """The user class with its messages; empty: that of the profile."""
    if (load.file is None) != (load.user is None):
        raise ValueError("--file and --user go together: a Locust file, and the class in it")
    if load.file is not None:
        file = checked_locustfile(load.file, load.user)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        return {"file": str(file), "file_digest": digest, "user": load.user}
    if load.message is None:
        for option in ("codec", "expect"):
            if getattr(load, option) is not None:
                raise ValueError(f"--{option} needs --message")
        return {}
    parse_message(load.message, load.codec or Profile.codec, load.expect or "")
    user = {"user": "MessageUser", "message": load.message, "codec": load.codec, "expect": load.expect}
    return {**user, "app": "echo"} if starts_server else user


def checked_locustfile(file: Path, user: str | None = None) -> Path:
    """The absolute path of a Locust file; ValueError if it cannot be used, or if it has no class `user`."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    check_users(file, user)
    return file.resolve()
