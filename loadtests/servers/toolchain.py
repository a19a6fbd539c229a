"""Finds or compiles the command of a peer; compiled programs are cached.

If this machine lacks a tool, Missing is raised, whose text is one line for the user.
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
TARGET = "{target}"  # in a compiler's command: the path of the program to make
GCC = ("gcc", "-O2", "-std=gnu11", "-o", TARGET)
GO = ("go", "build", "-o", TARGET)


class Missing(Exception):
    """This machine lacks a tool or a package that a server needs."""


def cache_folder(name: str) -> Path:
    """A cache folder below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name


class Toolchain:
    """The compilers and interpreters of this machine, and the cache for compiled programs."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def command_of(self, program: str) -> list[str]:
        """The command line of a program in peers/; its suffix determines the language. Compiles it if needed."""
        source = PEERS / program
        if source.suffix == ".c":
            return [self.compiled([*GCC, str(source)], [source])]
        if source.suffix == ".go":
            return [self.compiled([*GO, str(source)], [source])]
        if source.suffix == ".js":
            return [need("node"), str(source)]
        return [sys.executable, str(source)]

    def compiled(self, command: Sequence[str], sources: Sequence[Path]) -> str:
        """Compile `sources` by `command`, unless both are unchanged; return the path of the program."""
        digest = hashlib.sha256(repr(list(command)).encode())
        for source in sources:
            digest.update(source.read_bytes())
        program = self.folder() / f"{sources[0].stem}-{digest.hexdigest()[:16]}"
        if not program.exists():
            need(command[0])
            with tempfile.TemporaryDirectory(dir=self._cache) as folder:
                made = Path(folder) / program.name
                run_tool([str(made) if word == TARGET else word for word in command])
                made.rename(program)  # atomic: another process may compile it at the same time
        return str(program)

    def folder(self) -> Path:
        self._cache.mkdir(parents=True, exist_ok=True)
        return self._cache


def check_module(name: str) -> None:
    """Raise Missing if this interpreter, which runs the peers in Python, lacks a module."""
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed for {sys.executable}")


def need(tool: str) -> str:
    """The path of a tool; Missing if it is not installed."""
    found = shutil.which(tool)
    if found is None:
        raise Missing(f"{tool} is not installed")
    return found


def run_tool(command: Sequence[str]) -> str:
    """Run a tool and return its output; Missing, with the first line of its errors, if it fails."""
    finished = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if finished.returncode:
        lines = (finished.stderr or finished.stdout).strip().splitlines()
        raise Missing(f"{Path(command[0]).name} failed: {lines[0] if lines else finished.returncode}")
    return finished.stdout
