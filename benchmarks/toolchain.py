"""Build the client, make a certificate for TLS, and read the versions of the tools."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.servers import toolchain
from loadtests.servers.toolchain import GCC, Missing, cache_folder, need, run_tool

__all__ = ["Toolchain", "default_cache", "versions"]

CLIENT = Path(__file__).parent / "client"
VERSIONS = {
    "gcc": ["gcc", "--version"],
    "go": ["go", "version"],
    "node": ["node", "--version"],
    "openssl": ["openssl", "version"],
}
OPENSSL_HEADER = "#include <openssl/ssl.h>\n"
CERTIFICATE = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=localhost"


def default_cache() -> Path:
    """Return the folder for compiled programs."""
    return cache_folder("gserver-benchmarks")


class Toolchain(toolchain.Toolchain):
    """The compilers of this machine, for the peers, the client and the certificate."""

    def client(self, tls: bool) -> str:
        """Return the path of the client, compiled with TLS or without; raise Missing if it cannot be compiled."""
        sources = [CLIENT / name for name in ("load.c", "plain.c", *(["tls.c"] if tls else []))]
        command = [*GCC, *map(str, sources)]
        if tls:
            self._check_openssl()
            command += ["-DWITH_TLS", "-lssl", "-lcrypto"]
        return self.compiled(command, [*sources, *CLIENT.glob("*.h")])

    def certificate(self) -> tuple[str, str]:
        """Return the files of a self-signed certificate (ECDSA P-256) and of its key, for TLS servers."""
        openssl = need("openssl")
        folder = self.folder() / "certificate"
        files = str(folder / "cert.pem"), str(folder / "key.pem")
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as new:
                made = Path(new) / folder.name
                made.mkdir()
                out = ["-out", str(made / "cert.pem"), "-keyout", str(made / "key.pem")]
                run_tool([openssl, *CERTIFICATE.split(), *out])
                made.rename(folder)
        return files

    def _check_openssl(self) -> None:
        check = subprocess.run(
            [need("gcc"), "-fsyntax-only", "-xc", "-"], input=OPENSSL_HEADER.encode(), capture_output=True, check=False
        )
        if check.returncode:
            raise Missing("OpenSSL's headers are not installed (libssl-dev)")


def versions() -> dict[str, str]:
    """Return the versions of the installed tools that peers need, as each prints it."""
    found = {tool: _version(command) for tool, command in VERSIONS.items() if shutil.which(tool)}
    if importlib.util.find_spec("uvloop") is not None:
        found["uvloop"] = importlib.metadata.version("uvloop")
    return found


def _version(command: Sequence[str]) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return (finished.stdout.splitlines() or [""])[0]
