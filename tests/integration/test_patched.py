"""Run tests of code that depends on gevent's patches in a patched process too, because most workers are patched.

gevent patches more than sockets: os.close() returns before it closes, threads are greenlets, and SSLContext is another
class. A test of such code in this process, which is not patched, proves nothing about a worker.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers.processes import GserverProcess, wait_for

ROOT = Path(__file__).parents[2]
#: Test file -> the patched function on which its code depends.
FILES = {
    "tests/gserver/server/test_reserve_descriptor.py": "os.close",
    "tests/gserver/worker/test_block_detector.py": "time.sleep, threads",
    "tests/gserver/worker/test_readiness_probe.py": "socket.socketpair",
    "tests/gserver/tls/test_contexts.py": "ssl.SSLContext",
    "tests/gserver/tls/test_reload.py": "ssl.SSLContext",
    "tests/gserver/process/test_logs.py": "locks",
    "tests/gserver/offload/test_pools.py": "threads",
    "tests/gserver/offload/test_process_pool.py": "os.posix_spawn, socket.socketpair",
    "tests/gserver/offload/test_thread_pool.py": "threads",
}


def test_the_tests_pass_in_a_patched_process() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "tests.helpers.patched", "-p", "no:xdist", *sorted(FILES)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_preload_process_keeps_no_descriptor_of_the_workers_that_it_forks(tmp_path: Path) -> None:
    """gevent's os.close() waits for an event loop, which never runs in the preload process after the app made a hub."""
    (tmp_path / "app.py").write_text(
        "import gevent\ngevent.sleep(0)\n"
        "from gserver import Lines, Service\napp = Service(lambda line, conn: line, codec=Lines)\n"
    )
    with GserverProcess(tmp_path, "--preload", "app:app") as server:
        (preload_pid,) = re.findall(r"Preloading \(pid: (\d+)\)", server.log)
        before = len(os.listdir(f"/proc/{preload_pid}/fd"))
        for _ in range(3):
            server.kill_worker(server.serving_pids()[0])
        wait_for(lambda: len(os.listdir(f"/proc/{preload_pid}/fd")) == before, "the descriptors are closed")
