"""The servers that are measured: gserver, its variants and the peers, with the command for each service.

A command is a list of words. {port}, {workers}, {certfile}, {keyfile} and {app} (what gserver serves) are replaced. The
word {tls} becomes --certfile and --keyfile if the service uses TLS, and is dropped otherwise.
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

#: The name of the server under test in tables.
OURS = "ours"
#: Service -> the app of gserver for it.
APPS = {
    "echo": "echo",
    "json": "json",
    "tls": "echo",
    "cluster": "echo",
    "broadcast": "benchmarks.services:broadcast('send_nowait')",
}
#: The gserver that is installed for this interpreter.
GSERVER: Command = [sys.executable, *["-m", "gserver", "{app}", "-b", "127.0.0.1:{port}", "-w", "{workers}", "{tls}"]]


@dataclass(frozen=True)
class Variant(PeerCommand):
    """gserver itself in another configuration.

    program: the app to serve. words: further flags. before: words in front of the command.
    """

    words: str = ""
    before: str = ""

    def command(self, toolchain: Toolchain) -> Command:
        """Return the command; a variant needs no tools."""
        served = [self.program if word == "{app}" else word for word in GSERVER]
        return [*self.before.split(), *served, *self.words.split()]


#: The services that are measured with other settings of gserver too.
CONFIGURABLE = ("echo", "json", "tls", "cluster")
RECIPES: dict[str, dict[str, PeerCommand]] = {
    **PEER_COMMANDS,
    "pure": {service: Variant(APPS[service], before="env GSERVER_PURE=1") for service in CONFIGURABLE},
    "dedicated": {service: Variant(APPS[service], "--greenlets dedicated") for service in CONFIGURABLE},
    "stream": {service: Variant("benchmarks.services:stream_echo") for service in ("echo", "tls", "cluster")},
    "bare": {"echo": Variant("benchmarks.services:bare_echo")},
    "send": {"broadcast": Variant("benchmarks.services:broadcast('send')")},
}


def parse_peers(text: str) -> tuple[str, ...]:
    """Parse a list of peers, separated by commas; raise ValueError for an unknown one."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in RECIPES:
            raise ValueError(f"there is no peer {name!r}; the peers are {', '.join(RECIPES)}")
    return names


def fill(command: Sequence[str], service: str, values: Mapping[str, str]) -> list[str]:
    """Return the command with all placeholders replaced."""
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
    """Return the servers of a job (name -> command, ours first), and a line about each peer that is skipped.

    peers: names of RECIPES; None for the job's own. others: further commands, by name.
    """
    found = {OURS: ours, **others}
    skipped = []
    for peer in job.peers if peers is None else peers:
        try:
            recipe = RECIPES[peer].get(job.service)
            if recipe is None:
                raise Missing(f"it has no server for the job {job.name}")
            found[peer] = recipe.command(toolchain)
        except Missing as reason:
            skipped.append(f"{peer}: {reason}")
    return found, skipped
