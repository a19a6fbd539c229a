"""A program that makes TLS contexts, forks, and uses them in two children that are patched by gevent after the fork.

    python -m tests.helpers.forked_tls FOLDER

The parent is the client. It prints what the children report about each connection, as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import sys
import traceback
import warnings
from pathlib import Path

from gserver.errors import TlsError
from gserver.tls.contexts import Tls, TlsConfig
from gserver.tls.session import TlsStream
from tests.helpers.certificates import CertificateFiles, make_certificates
from tests.helpers.tls_client import TlsClient

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def serve(connection: socket.socket, tls: Tls) -> None:
    """Serve one connection: reply with the result of the handshake, or with the reason of its failure."""
    stream = TlsStream(tls.context)
    try:
        while not stream.handshake(connection.recv(65536)):
            connection.sendall(stream.take_outgoing())
        connection.sendall(stream.take_outgoing())
        stream.decrypt(b"") or stream.decrypt(connection.recv(65536))
        info = stream.info
        connection.sendall(stream.encrypt(json.dumps([info.version, info.server_name, info.resumed]).encode()))
    except TlsError as error:
        connection.sendall(str(error).encode())


def child(connections: list[socket.socket], tls: Tls, has_changed: int) -> None:
    """Serve the first connections with the original files, and the last one after they were replaced."""
    from gevent import monkey

    warnings.filterwarnings("ignore", "Monkey-patching ssl after ssl", monkey.MonkeyPatchWarning)
    monkey.patch_all()
    for connection in connections[:-1]:
        serve(connection, tls)
    os.read(has_changed, 1)
    looks = [tls.reload_if_changed(), tls.reload_if_changed()]
    assert looks == [False, True], looks
    serve(connections[-1], tls)


def fork(connections: list[socket.socket], tls: Tls, has_changed: int) -> int:
    if pid := os.fork():
        return pid
    try:
        child(connections, tls, has_changed)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def request(connection: socket.socket, client: TlsClient) -> object:
    """Return what a child reports about a connection; afterwards `client` has the TLS session."""
    connection.sendall(client.handshake())
    while not client.is_complete:
        connection.sendall(client.handshake(connection.recv(65536)))
    connection.sendall(client.encrypt(b"?"))
    answer = b""
    while not answer:
        answer = client.decrypt(connection.recv(65536))
    return json.loads(answer)


def contexts(files: CertificateFiles) -> list[ssl.SSLContext]:
    """Return a client context for each TLS version."""
    made = [files.client_context() for _ in VERSIONS]
    for context, version in zip(made, VERSIONS, strict=True):
        context.minimum_version = context.maximum_version = version
    return made


def main(folder: Path) -> None:
    old, new = make_certificates(folder / "old"), make_certificates(folder / "new")
    live = shutil.copy(old.combined, folder / "live.pem")
    tls = Tls(TlsConfig(str(live), sni=(("localhost", str(live), None),)))
    pairs = [[socket.socketpair() for _ in (*VERSIONS, "broken", "changed")] for _ in range(2)]
    changed = [os.pipe() for _ in pairs]
    children = [fork([end for _, end in pairs[number]], tls, changed[number][0]) for number in range(2)]
    reports: list[object] = []
    for index, context in enumerate(contexts(old)):
        first = TlsClient(context)
        reports.append(request(pairs[0][index][0], first))
        reports.append(request(pairs[1][index][0], TlsClient(context, session=first.tls.session)))
    for number in range(2):
        broken, last = pairs[number][-2][0], pairs[number][-1][0]
        broken.sendall(b"\x16\x03\x01\x00\x05hello")
        reports.append(broken.recv(65536).decode())
        if number == 0:
            shutil.copy(new.combined, live)
        os.write(changed[number][1], b"!")
        reports.append(request(last, TlsClient(new.client_context())))
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(json.dumps({"said": reports, "statuses": statuses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
