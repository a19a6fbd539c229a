"""The peers, and how each serves a service: a program of peers/ and the words behind it; {port} will be replaced."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.servers.toolchain import Toolchain, check_module

__all__ = ["RECIPES", "Recipe", "recipe_of"]

TLS = "{port} {certfile} {keyfile}"


@dataclass(frozen=True)
class Recipe:
    """How a peer serves a service.

    program: a file of peers/. module: what it imports that may be missing.
    """

    program: str
    words: str = "{port}"
    module: str | None = None

    def command(self, toolchain: Toolchain) -> list[str]:
        """The words that start it; Missing says what this machine lacks."""
        if self.module is not None:
            check_module(self.module)
        return [*toolchain.command_of(self.program), *self.words.split()]


RECIPES: dict[str, dict[str, Recipe]] = {
    "c": {"echo": Recipe("echo_epoll.c")},
    "go": {"echo": Recipe("echo.go"), "tls": Recipe("echo.go", TLS), "cluster": Recipe("echo.go")},
    "node": {
        "echo": Recipe("echo.js"),
        "json": Recipe("json.js"),
        "tls": Recipe("echo.js", TLS),
        "cluster": Recipe("cluster.js", "{port} {workers}"),
    },
    "uvloop": {
        "echo": Recipe("asyncio_echo.py", "uvloop {port}", "uvloop"),
        "json": Recipe("asyncio_json.py", "uvloop {port}", "uvloop"),
        "tls": Recipe("asyncio_echo.py", f"uvloop {TLS}", "uvloop"),
    },
    "asyncio": {
        "echo": Recipe("asyncio_echo.py", "asyncio {port}"),
        "json": Recipe("asyncio_json.py", "asyncio {port}"),
        "tls": Recipe("asyncio_echo.py", f"asyncio {TLS}"),
    },
    "gevent": {
        "echo": Recipe("gevent_echo.py"),
        "json": Recipe("gevent_json.py"),
        "tls": Recipe("gevent_echo.py", TLS),
    },
}
#: What a load test can ask of a peer.
SERVICES = ("echo", "json")


def recipe_of(name: str) -> Recipe:
    """That of PEER-SERVICE, such as node-json; ValueError with all names if there is none."""
    known = {
        f"{peer}-{service}": RECIPES[peer][service]
        for service in SERVICES
        for peer in RECIPES
        if service in RECIPES[peer]
    }
    if name not in known:
        raise ValueError(f"there is no peer {name!r}: expected one of {', '.join(known)}")
    return known[name]
