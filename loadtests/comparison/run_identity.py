"""What a run tested, and how: what must be equal for runs to be one trend, and is listed where two sides differ. Pure.

A server that a run started is known by its command; the port that happened to be free is no part of it. Of one that
ran already only the address is known.
"""

from __future__ import annotations

import re

from loadtests.results.store import Run
from loadtests.servers.target import RAN_ALREADY

__all__ = ["CHOSEN", "address_of", "commit_of", "server_of", "setting_of"]

#: In the place of the address of a server that a run started.
CHOSEN = "a free port of this host"
#: In the name of a side of `ab`: gserver:APP@COMMIT?SETTINGS.
_COMMIT = re.compile(r"^(gserver:[^@]+)@([0-9a-f]{12})(?=\?|$)")


def address_of(run: Run) -> str:
    """tcp:// or tls://HOST:PORT of a server that ran already, CHOSEN for one that the run started."""
    return str(run.server.get("address", "unknown")) if _command(run) in (RAN_ALREADY, "") else CHOSEN


def server_of(run: Run) -> str:
    """The server in a few words, whatever its commit: that is what changes from run to run."""
    address = address_of(run)
    return _COMMIT.sub(r"\1", _command(run)) if address == CHOSEN else f"the server at {address}"


def commit_of(run: Run) -> str:
    """What was served: the commit of the side, or that of the checkout."""
    found = _COMMIT.search(_command(run))
    return found[2] if found else str(run.environment.get("source", "unknown"))


def setting_of(run: Run) -> dict[str, str]:
    """What else changes figures and is neither workload, host nor server, by names for a person."""
    found = {
        "workers": run.server.get("workers"),
        "generator": run.environment.get("generator"),
        "pinning": run.environment.get("pinning"),
        "schema": run.schema,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _command(run: Run) -> str:
    return str(run.server.get("command", ""))
