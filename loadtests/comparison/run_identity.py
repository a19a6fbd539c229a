"""What identifies the server and the setting of a run. Pure.

Runs of a trend must have the same identity; a comparison lists the differences. A server that the run started is
identified by its command, without its port, which is random. A server that ran already is identified by its address.
"""

from __future__ import annotations

import re

from loadtests.results.store import Run
from loadtests.servers.target import RAN_ALREADY

__all__ = ["CHOSEN", "address_of", "commit_of", "server_of", "setting_of"]

#: Stands for the address of a server that the run started.
CHOSEN = "a free port of this host"
#: The commit in the name of a side of `ab`: gserver:APP@COMMIT?SETTINGS.
_COMMIT = re.compile(r"^(gserver:[^@]+)@([0-9a-f]{12})(?=\?|$)")


def address_of(run: Run) -> str:
    """tcp:// or tls://HOST:PORT of a server that ran already, CHOSEN for one that the run started."""
    return str(run.server.get("address", "unknown")) if _command(run) in (RAN_ALREADY, "") else CHOSEN


def server_of(run: Run) -> str:
    """The server in a few words, without its commit, which changes from run to run."""
    address = address_of(run)
    return _COMMIT.sub(r"\1", _command(run)) if address == CHOSEN else f"the server at {address}"


def commit_of(run: Run) -> str:
    """The commit of the server: that of the side, or else that of the checkout."""
    found = _COMMIT.search(_command(run))
    return found[2] if found else str(run.environment.get("source", "unknown"))


def setting_of(run: Run) -> dict[str, str]:
    """Everything else that affects the figures: title -> value."""
    found = {
        "workers": run.server.get("workers"),
        "generator": run.environment.get("generator"),
        "pinning": run.environment.get("pinning"),
        "schema": run.schema,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _command(run: Run) -> str:
    return str(run.server.get("command", ""))
