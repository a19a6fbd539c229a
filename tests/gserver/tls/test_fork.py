"""Certificates loaded before a fork, used in a worker that gevent has patched after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.certificates import make_certificates

FORKED = """
import os, sys
from gserver.tls.contexts import Tls, TlsConfig
tls = Tls(TlsConfig(sys.argv[1]))
from gserver.tls.session import TlsStream
from tests.helpers.tls_client import TlsClient, connect
import ssl
context = ssl.create_default_context(cafile=sys.argv[2])
context.maximum_version = ssl.TLSVersion.TLSv1_2
def ask(session=None):
    stream, client = TlsStream(tls.context), TlsClient(context, session=session)
    connect(stream, client)
    return stream.info, client.tls.session

_, session = ask()
pid = os.fork()
if pid == 0:
    from gevent import monkey
    monkey.patch_all()
    assert ask(session)[0].resumed
    os.utime(sys.argv[1])
    assert [tls.reload_if_changed() for _ in range(2)] == [False, True]
    assert ask()[0].version == "TLSv1.2"
    assert ask(session)[0].resumed  # the ticket keys are kept when certificates change
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_forked_and_patched_process_resumes_sessions_and_loads_new_files(
    tmp_path: Path,
) -> None:
    files = make_certificates(tmp_path)
    command = [sys.executable, "-c", FORKED, files.combined, files.ca]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ended.stdout, ended.returncode) == ("7\n", 0), ended.stderr
