"""Free ports by name, for tests that need several at once."""

from __future__ import annotations

from loadtests.host.subprocesses import free_port

__all__ = ["NamedPorts"]


class NamedPorts(dict[str, int]):
    """Gives each new name a free port that no other name has: of 130 ports drawn at random, two are often the same."""

    def __missing__(self, name: str) -> int:
        while (port := free_port()) in self.values():
            pass
        self[name] = port
        return port
