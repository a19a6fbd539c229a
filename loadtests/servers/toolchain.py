"""From the source of a peer to the command that runs it; what must be compiled is, once, into a cache folder.

What this machine lacks for it is a Missing, whose text is one line for a person.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["GCC", "PEERS", "Missing", "Toolchain", "cache_folder", "check_module", "need", "run_tool"]

PEERS = Path(__file__).parent / "peers"
TARGET = "{target}"  # in a compiler's command: what it shall make
GCC = ("gcc", "-O2", "-std=gnu11", "-o", TARGET)
GO = ("go", "build", "-o", TARGET)


class Missing(Exception):
    """This machine lacks what a server needs."""


def cache_folder(name: str) -> Path:
    """Where what was made once is kept: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name


class Toolchain:
    """The compilers and interpreters of this machine, and the folder for what they make."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def command_of(self, program: str) -> list[str]:
        """The words that run a program of the folder peers/; its language is told by its suffix."""
        source = PEERS / program
        if source.suffix == ".c":
            return [self.compiled([*GCC, str(source)], [source])]
        if source.suffix == ".go":
            return [self.compiled([*GO, str(source)], [source])]
        if source.suffix == ".js":
            return [need("node"), str(source)]
        return [sys.executable, str(source)]

    def compiled(self, command: Sequence[str], sources: Sequence[Path]) -> str:
        """The program that `command` makes of `sources`, which is made anew where either has changed."""
        digest = hashlib.sha256(repr(list(command)).encode())
        for source in sources:
            digest.update(source.read_bytes())
        program = self.folder() / f"{sources[0].stem}-{digest.hexdigest()[:16]}"
        if not program.exists():
            need(command[0])
            with tempfile.TemporaryDirectory(dir=self._cache) as folder:
                made = Path(folder) / program.name
                run_tool([str(made) if word == TARGET else word for word in command])
                made.rename(program)  # whole or not at all, whoever else compiles it now
        return str(program)

    def folder(self) -> Path:
        self._cache.mkdir(parents=True, exist_ok=True)
        return self._cache


def check_module(name: str) -> None:
    """Missing if this interpreter, which runs the servers in Python, has no such module."""
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed for {sys.executable}")


def need(tool: str) -> str:
    """Where a tool is; Missing if it is nowhere."""
    found = shutil.which(tool)
    if found is None:
        raise Missing(f"{tool} is not installed")
    return found


def run_tool(command: Sequence[str]) -> str:
    """What a tool printed; Missing, with the first thing that it complained of, if it failed."""
    finished = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if finished.returncode:
        said = (finished.stderr or finished.stdout).strip().splitlines()
        raise Missing(f"{Path(command[0]).name} failed: {said[0] if said else finished.returncode}")
    return finished.stdout
