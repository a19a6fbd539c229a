"""From the source of a program to the command that runs it; what must be compiled is, once, into a cache folder.

What this machine lacks for it is a Missing, whose text is one line for a person.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Missing", "Toolchain", "check_module", "default_cache", "versions"]

PEERS = Path(__file__).parent / "peers"
CLIENT = Path(__file__).parent / "client"
TARGET = "{target}"  # in a compiler's command: what it shall make
GCC = ("gcc", "-O2", "-std=gnu11", "-o", TARGET)
GO = ("go", "build", "-o", TARGET)
VERSIONS = {
    "gcc": ["gcc", "--version"],
    "go": ["go", "version"],
    "node": ["node", "--version"],
    "openssl": ["openssl", "version"],
}
OPENSSL_HEADER = "#include <openssl/ssl.h>\n"
CERTIFICATE = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=localhost"


class Missing(Exception):
    """This machine lacks what a server or the client needs."""


def default_cache() -> Path:
    """Where programs that were compiled are kept: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gserver-benchmarks"


class Toolchain:
    """The compilers and interpreters of this machine, and the folder for what they make."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def command_of(self, program: str) -> list[str]:
        """The words that run a program of the folder peers/; its language is told by its suffix."""
        source = PEERS / program
        if source.suffix == ".c":
            return [self._compiled([*GCC, str(source)], [source])]
        if source.suffix == ".go":
            return [self._compiled([*GO, str(source)], [source])]
        if source.suffix == ".js":
            return [_need("node"), str(source)]
        return [sys.executable, str(source)]

    def client(self, tls: bool) -> str:
        """The client, with TLS or without."""
        sources = [CLIENT / name for name in ("load.c", "plain.c", *(["tls.c"] if tls else []))]
        command = [*GCC, *map(str, sources)]
        if tls:
            self._check_openssl()
            command += ["-DWITH_TLS", "-lssl", "-lcrypto"]
        return self._compiled(command, [*sources, *CLIENT.glob("*.h")])

    def certificate(self) -> tuple[str, str]:
        """The files of a certificate (ECDSA P-256) and of its key, for servers of TLS."""
        openssl = _need("openssl")
        folder = self._cache / "certificate"
        files = str(folder / "cert.pem"), str(folder / "key.pem")
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=self._folder()) as new:
                made = Path(new) / folder.name
                made.mkdir()
                out = ["-out", str(made / "cert.pem"), "-keyout", str(made / "key.pem")]
                _run([openssl, *CERTIFICATE.split(), *out])
                made.rename(folder)
        return files

    def _check_openssl(self) -> None:
        check = subprocess.run(
            [_need("gcc"), "-fsyntax-only", "-xc", "-"], input=OPENSSL_HEADER.encode(), capture_output=True, check=False
        )
        if check.returncode:
            raise Missing("OpenSSL's headers are not installed (libssl-dev)")

    def _compiled(self, command: Sequence[str], sources: Sequence[Path]) -> str:
        """The program that `command` makes of `sources`, which is made anew where either has changed."""
        digest = hashlib.sha256(repr(list(command)).encode())
        for source in sources:
            digest.update(source.read_bytes())
        program = self._folder() / f"{sources[0].stem}-{digest.hexdigest()[:16]}"
        if not program.exists():
            _need(command[0])
            with tempfile.TemporaryDirectory(dir=self._cache) as folder:
                made = Path(folder) / program.name
                _run([str(made) if word == TARGET else word for word in command])
                made.rename(program)  # whole or not at all, whoever else compiles it now
        return str(program)

    def _folder(self) -> Path:
        self._cache.mkdir(parents=True, exist_ok=True)
        return self._cache


def check_module(name: str) -> None:
    """Missing if this interpreter, which runs the servers in Python, has no such module."""
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed for {sys.executable}")


def versions() -> dict[str, str]:
    """What the tools that peers need say of themselves, as far as they are installed."""
    found = {tool: _said(command) for tool, command in VERSIONS.items() if shutil.which(tool)}
    if importlib.util.find_spec("uvloop") is not None:
        found["uvloop"] = importlib.metadata.version("uvloop")
    return found


def _said(command: Sequence[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return (finished.stdout.splitlines() or [""])[0]


def _need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        raise Missing(f"{tool} is not installed")
    return found


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if finished.returncode:
        said = (finished.stderr or finished.stdout).strip().splitlines()
        raise Missing(f"{Path(command[0]).name} failed: {said[0] if said else finished.returncode}")
