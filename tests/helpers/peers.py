"""Programs on the other side, as Debian has them: found, started with a configuration of the test's, and stopped.

Servers run in the foreground as one process, listen on a loopback address at a port of the kernel's, and write into
the folder that they are given; when the `with` is left they have ended.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.processes import PATIENCE_S, wait_for

__all__ = ["HAProxy", "converse", "haproxy", "need", "nginx", "path_of"]

Address = tuple[str, int]

# Another process may take the port between finding it free and binding it.
ATTEMPTS = 5

HAPROXY = """
global
    stats socket {folder}/admin mode 600 level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
"""
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
include /etc/nginx/modules-enabled/*.conf;
events {{}}
"""
NGINX_FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Ended(AssertionError):
    """A program has ended too early; the text is what it said."""


def path_of(command: str) -> str | None:
    """Where a program is, also one that only root has in its PATH."""
    return shutil.which(command, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


def need(command: str) -> pytest.MarkDecorator:
    """Skip a test where `command` is not installed."""
    return pytest.mark.skipif(path_of(command) is None, reason=f"{command} is not installed")


def converse(command: Sequence[str], said: bytes) -> bytes:
    """Run a client that says what it reads and prints what it hears, until both have ended; what it heard."""
    ended = subprocess.run(command, input=said, capture_output=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")
    return ended.stdout


@contextmanager
def _started(
    command: Sequence[str], folder: Path, is_ready: Callable[[], bool], descriptors: Sequence[int] = ()
) -> Iterator[None]:
    log = folder / f"{command[0]}.log"
    path = path_of(command[0])
    assert path is not None, command[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            pass_fds=descriptors,
        )

    def is_alive() -> bool:
        if process.poll() is not None:
            raise Ended(log.read_text())
        return True

    try:
        wait_for(lambda: is_alive() and is_ready(), f"{command[0]} is ready")
        yield
        is_alive()
    finally:
        process.kill()
        process.wait(PATIENCE_S)


@dataclass(frozen=True)
class HAProxy:
    """A HAProxy that runs. Attributes: address, where its front is; admin, the path of its control socket."""

    address: Address
    admin: Path

    def ask(self, command: str) -> str:
        """What it answers to a command of its management guide, such as "show stat"."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE_S)
            control.connect(str(self.admin))
            control.sendall(command.encode() + b"\n")
            return control.makefile().read()

    def statistics(self) -> dict[str, dict[str, str]]:
        """Of each server by its name, the columns of "show stat"."""
        rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        return {row["svname"]: row for row in rows}


@contextmanager
def haproxy(folder: Path, configuration: str, host: str = "127.0.0.1") -> Iterator[HAProxy]:
    """Run HAProxy in TCP mode; `configuration` has {front} where its address is to stand."""
    # It takes over a socket that listens already, so that nobody else can have the port.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as front:
        path = folder / "haproxy.cfg"
        whole = HAPROXY.format(folder=folder) + configuration.replace("{front}", f"fd@{front.fileno()}")
        path.write_text(whole)
        admin = folder / "admin"
        with _started(["haproxy", "-db", "-f", str(path)], folder, admin.exists, [front.fileno()]):
            yield HAProxy(front.getsockname()[:2], admin)


@contextmanager
def nginx(folder: Path, configuration: str) -> Iterator[Address]:
    """Run nginx; `configuration`, a block `http` or `stream`, has {front} where its address is to stand.

    In `http` its log and its temporary files are taken care of.
    """
    own = "".join(f" {name}_temp_path {folder}/{name};" for name in NGINX_FOLDERS) + " access_log off;"
    path = folder / "nginx.conf"
    command = ["nginx", "-e", "stderr", "-c", str(path)]
    with ExitStack() as stack:
        for attempt in range(ATTEMPTS):
            with socket.create_server(("127.0.0.1", 0)) as free:
                front: Address = free.getsockname()
            block = configuration.replace("{front}", f"{front[0]}:{front[1]}").replace("http {", "http {" + own)
            path.write_text(NGINX.format(folder=folder) + block)
            try:
                stack.enter_context(_started(command, folder, (folder / "nginx.pid").exists))
                break
            except Ended as error:
                if "Address already in use" not in str(error) or attempt == ATTEMPTS - 1:
                    raise
        yield front
