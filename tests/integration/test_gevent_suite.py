"""TcpServer behaves like gevent's StreamServer: gevent's own tests of StreamServer pass with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

MODULE = Path(__file__).parents[1] / "helpers" / "gevent_server_tests.py"
# There are 39. One is always skipped, and unittest of Python 3.12.1 does not count skipped tests.
GEVENT_TESTS = 38
TIMEOUT_S = 60


def test_gevents_own_server_tests_pass() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(MODULE.parents[2]), *sys.path]))}
    finished = subprocess.run(
        [sys.executable, str(MODULE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
        check=False,
    )
    ran = re.search(r"^Ran (\d+) tests", finished.stdout, re.MULTILINE)

    assert finished.returncode == 0, finished.stdout
    assert ran is not None, finished.stdout
    assert int(ran[1]) >= GEVENT_TESTS
