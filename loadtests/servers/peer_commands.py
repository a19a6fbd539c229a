"""The commands of the peers, the servers that gserver is compared with. {port} is replaced at the start."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.servers.toolchain import Toolchain, check_module

__all__ = ["PEER_COMMANDS", "PeerCommand", "peer_command"]

TLS = "{port} {certfile} {keyfile}"


@dataclass(frozen=True)
class PeerCommand:
    """The command of a peer for a service.

    Attributes:
        program: a file in peers/.
        words: its arguments.
        module: an optional package that it imports.
    """

    program: str
    words: str = "{port}"
    module: str | None = None

    def command(self, toolchain: Toolchain) -> list[str]:
        """The command line; Missing if this machine lacks a tool or a package for it."""
        if self.module is not None:
            check_module(self.module)
        return [*toolchain.command_of(self.program), *self.words.split()]


PEER_COMMANDS: dict[str, dict[str, PeerCommand]] = {
    "c": {"echo": PeerCommand("echo_epoll.c")},
    "go": {"echo": PeerCommand("echo.go"), "tls": PeerCommand("echo.go", TLS), "cluster": PeerCommand("echo.go")},
    "node": {
        "echo": PeerCommand("echo.js"),
        "json": PeerCommand("json.js"),
        "tls": PeerCommand("echo.js", TLS),
        "cluster": PeerCommand("cluster.js", "{port} {workers}"),
    },
    "uvloop": {
        "echo": PeerCommand("asyncio_echo.py", "uvloop {port}", "uvloop"),
        "json": PeerCommand("asyncio_json.py", "uvloop {port}", "uvloop"),
        "tls": PeerCommand("asyncio_echo.py", f"uvloop {TLS}", "uvloop"),
    },
    "asyncio": {
        "echo": PeerCommand("asyncio_echo.py", "asyncio {port}"),
        "json": PeerCommand("asyncio_json.py", "asyncio {port}"),
        "tls": PeerCommand("asyncio_echo.py", f"asyncio {TLS}"),
    },
    "gevent": {
        "echo": PeerCommand("gevent_echo.py"),
        "json": PeerCommand("gevent_json.py"),
        "tls": PeerCommand("gevent_echo.py", TLS),
    },
}
#: The services that a load test can use.
SERVICES = ("echo", "json")


def peer_command(name: str) -> PeerCommand:
    """The command of PEER-SERVICE, such as node-json; ValueError with all names for an unknown one."""
    known = {
        f"{peer}-{service}": PEER_COMMANDS[peer][service]
        for service in SERVICES
        for peer in PEER_COMMANDS
        if service in PEER_COMMANDS[peer]
    }
    if name not in known:
        raise ValueError(f"there is no peer {name!r}: expected one of {', '.join(known)}")
    return known[name]
