"""A network of hosts made of network namespaces: 10.77.0.1, 10.77.0.2 and so on, connected by a bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["Network", "network"]


class Network:
    """The hosts: address(host) is the IP address, and command(host, ...) the command that runs a program there."""

    def __init__(self, hosts: list[str]) -> None:
        self._names = {host: f"gs{os.getpid()}{host[0]}" for host in hosts}
        self._addresses = {host: f"10.77.0.{number}" for number, host in enumerate(hosts, 1)}

    def address(self, host: str) -> str:
        return self._addresses[host]

    def command(self, host: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[host], *words]

    def pids(self, host: str) -> set[int]:
        """The processes in the namespace of a host."""
        words = ["ip", "netns", "pids", self._names[host]]
        listed = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
        return set(map(int, listed.split()))

    def plug(self, host: str, is_in: bool) -> None:
        """Connect or disconnect a host (not the first one) by setting its link up or down."""
        first, name = next(iter(self._names)), self._names[host]
        self._at(first, f"ip link set {name} {'up' if is_in else 'down'}")

    def _create(self) -> None:
        """Create the namespaces: the first host has the bridge and an address on it, the others a veth pair to it."""
        first, *others = self._names
        self._do("ip", "netns", "add", self._names[first])
        self._at(first, "ip link add bridge type bridge", f"ip addr add {self.address(first)}/24 dev bridge")
        self._at(first, "ip link set bridge up", "ip link set lo up")
        for host in others:
            name = self._names[host]
            self._do("ip", "netns", "add", name)
            self._at(first, f"ip link add {name} type veth peer name eth0 netns {name}")
            self._at(first, f"ip link set {name} master bridge", f"ip link set {name} up")
            self._at(host, f"ip addr add {self.address(host)}/24 dev eth0", "ip link set eth0 up", "ip link set lo up")

    def _at(self, host: str, *lines: str) -> None:
        for line in lines:
            self._do(*self.command(host, *line.split()))

    def _do(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip(f"network namespaces cannot be created: {done.stderr.strip()}")

    def _remove(self) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=60, check=False)


@contextmanager
def network(*hosts: str) -> Iterator[Network]:
    """Create a network of hosts, whose names begin with different letters; skip the test if that is not possible."""
    if os.getuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    net = Network(list(hosts))
    try:
        net._create()
        yield net
    finally:
        net._remove()
