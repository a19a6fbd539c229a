"""Find, configure, start and stop installed programs: HAProxy, nginx, and clients such as openssl.

Servers run in the foreground as one process, listen on a free port of a loopback address, and write to the given
folder. Leaving the `with` stops them.
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

__all__ = ["HAProxy", "converse", "haproxy", "need", "nginx", "path_of", "started"]

Address = tuple[str, int]

# Attempts to start nginx: another process may take the port before nginx binds it.
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
    """A program ended too early; the text is its output."""


def path_of(command: str) -> str | None:
    """Return the path of a program or None; also searches /usr/sbin and /sbin."""
    return shutil.which(command, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


def need(command: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test if `command` is not installed."""
    return pytest.mark.skipif(path_of(command) is None, reason=f"{command} is not installed")


def converse(command: Sequence[str], data: bytes) -> bytes:
    """Run a client that sends its standard input to the server; return what it received and printed."""
    ended = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")
    return ended.stdout


@contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    is_ready: Callable[[], bool],
    descriptors: Sequence[int] = (),
    prefix: Sequence[str] = (),
) -> Iterator[None]:
    """Run a program until the `with` is left; `descriptors` are passed on. Raises Ended if it ends before."""
    log = folder / f"{command[0]}.log"
    path = path_of(command[0])
    assert path is not None, command[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, path, *command[1:]],
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
    """A running HAProxy. address: of its front end; admin: path of its control socket."""

    address: Address
    admin: Path

    def request(self, command: str) -> str:
        """Send a command of HAProxy's management guide, such as "show stat"; return the reply."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE_S)
            control.connect(str(self.admin))
            control.sendall(command.encode() + b"\n")
            return control.makefile().read()

    def statistics(self) -> dict[str, dict[str, str]]:
        """Return the columns of "show stat" for each server by name."""
        rows = csv.DictReader(self.request("show stat").removeprefix("# ").splitlines())
        return {row["svname"]: row for row in rows}


@contextmanager
def haproxy(folder: Path, configuration: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[HAProxy]:
    """Run HAProxy in TCP mode; {front} in `configuration` is replaced by the address of the front end.

    Args:
        host: address of the front end, which is in the network of the caller.
        prefix: a command that runs HAProxy elsewhere, such as in another network namespace.
    """
    # HAProxy gets a listening socket, so that no other process can take the port.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as front:
        path = folder / "haproxy.cfg"
        whole = HAPROXY.format(folder=folder) + configuration.replace("{front}", f"fd@{front.fileno()}")
        path.write_text(whole)
        admin = folder / "admin"
        with started(["haproxy", "-db", "-f", str(path)], folder, admin.exists, [front.fileno()], prefix):
            yield HAProxy(front.getsockname()[:2], admin)


@contextmanager
def nginx(folder: Path, configuration: str) -> Iterator[Address]:
    """Run nginx with a block `http` or `stream`; {front} in it is replaced by the address. Yields the address.

    In `http`, the access log is off and temporary files go to `folder`.
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
                stack.enter_context(started(command, folder, (folder / "nginx.pid").exists))
                break
            except Ended as error:
                if "Address already in use" not in str(error) or attempt == ATTEMPTS - 1:
                    raise
        yield front
