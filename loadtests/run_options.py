"""What of a profile a command line may change."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from loadtests.profiles import PROFILES, Profile

__all__ = ["add_run_options", "at_least", "profile_of"]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """An option for each."""
    parser.add_argument("--users", type=at_least(1, int), metavar="N", help="sockets")
    parser.add_argument("--duration", type=at_least(1, float), metavar="SECONDS", help="from the first connect on")
    parser.add_argument(
        "--rate", type=at_least(0, float), metavar="R", help="exchanges a second of each socket; 0: no pause"
    )
    parser.add_argument("--payload", type=at_least(1, int), metavar="BYTES", help="of an echoed message")
    parser.add_argument("--workers", type=at_least(1, int), metavar="N", help="of the server")


def at_least(minimum: int, kind: type[int] | type[float]) -> Callable[[str], float]:
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


def profile_of(arguments: argparse.Namespace, name: str) -> Profile:
    """A profile with what was asked for; ValueError if there is none of that name."""
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: expected one of {', '.join(PROFILES)}")
    given: dict[str, Any] = {
        "sockets": arguments.users,
        "duration_s": arguments.duration,
        "rate": arguments.rate,
        "payload_bytes": arguments.payload,
        "workers": arguments.workers,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PROFILES[name], **changes)
