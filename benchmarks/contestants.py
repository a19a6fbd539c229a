"""Who is measured: the peers, the services that each has, and the commands of their servers.

A command is a list of words in which {port}, {workers}, {certfile} and {keyfile} will be replaced, and for gserver also
{app}, the service; a word {tls} becomes --certfile and --keyfile where the service has TLS, and nothing elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.jobs import Job
from loadtests.servers.peer_commands import PEER_COMMANDS, PeerCommand
from loadtests.servers.toolchain import Missing, Toolchain

__all__ = ["GSERVER", "OURS", "RECIPES", "Command", "contestants", "fill", "parse_peers"]

Command = list[str]

#: What the server under test is called in tables.
OURS = "ours"
#: Service -> what gserver serves for it.
APPS = {
    "echo": "echo",
    "json": "json",
    "tls": "echo",
    "cluster": "echo",
    "broadcast": "benchmarks.services:broadcast('send_nowait')",
}
#: gserver as this interpreter has it.
GSERVER: Command = [sys.executable, *["-m", "gserver", "{app}", "-b", "127.0.0.1:{port}", "-w", "{workers}", "{tls}"]]


@dataclass(frozen=True)
class Variant(PeerCommand):
    """gserver itself, served in another way.

    program: what it is to serve. words: further flags. before: words in front of the command.
    """

    words: str = ""
    before: str = ""

    def command(self, toolchain: Toolchain) -> Command:
        named = [self.program if word == "{app}" else word for word in GSERVER]
        return [*self.before.split(), *named, *self.words.split()]


#: What gserver serves in several ways.
SHAPED = ("echo", "json", "tls", "cluster")
RECIPES: dict[str, dict[str, PeerCommand]] = {
    **PEER_COMMANDS,
    "pure": {service: Variant(APPS[service], before="env GSERVER_PURE=1") for service in SHAPED},
    "dedicated": {service: Variant(APPS[service], "--greenlets dedicated") for service in SHAPED},
    "stream": {service: Variant("benchmarks.services:stream_echo") for service in ("echo", "tls", "cluster")},
    "bare": {"echo": Variant("benchmarks.services:bare_echo")},
    "send": {"broadcast": Variant("benchmarks.services:broadcast('send')")},
}


def parse_peers(text: str) -> tuple[str, ...]:
    """The peers of a list with commas; ValueError for one that there is not."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in RECIPES:
            raise ValueError(f"there is no peer {name!r}; the peers are {', '.join(RECIPES)}")
    return names


def fill(command: Sequence[str], service: str, values: Mapping[str, str]) -> list[str]:
    """The command with all that is in braces replaced."""
    tls = ["--certfile", "{certfile}", "--keyfile", "{keyfile}"] if service == "tls" else []
    words = [part for word in command for part in (tls if word == "{tls}" else [word])]
    for name, value in {"app": APPS[service], **values}.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    return words


def contestants(
    job: Job,
    ours: Command,
    peers: Sequence[str] | None,
    others: Mapping[str, Command],
    toolchain: Toolchain,
) -> tuple[dict[str, Command], list[str]]:
    """Who is measured in a job, ours first, and a line about each peer that cannot be.

    peers: names of RECIPES; None: those of the job. others: further commands, by name.
    """
    found = {OURS: ours, **others}
    skipped = []
    for peer in job.peers if peers is None else peers:
        try:
            recipe = RECIPES[peer].get(job.service)
            if recipe is None:
                raise Missing(f"it has no server for the job {job.name}")
            found[peer] = recipe.command(toolchain)
        except Missing as lack:
            skipped.append(f"{peer}: {lack}")
    return found, skipped
