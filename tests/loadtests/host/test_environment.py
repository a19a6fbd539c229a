"""The description of a host, and its limit of open files."""

from __future__ import annotations

import platform
import subprocess
import sys

import gserver
from loadtests.host.environment import describe, sockets_within


def test_the_environment_names_versions_host_and_source() -> None:
    described = describe()

    assert described["gserver"] == gserver.__version__
    assert described["python"] == platform.python_version()
    assert described["source"]
    assert described["processor"]
    for library in ("gevent", "greenlet", "locust", "psutil", "msgspec"):
        assert str(described[library])[0].isdigit()


def test_a_process_keeps_descriptors_for_itself() -> None:
    assert sockets_within(20_000, 2_000) == 2_000
    assert sockets_within(1_024, 2_000) == 824
    assert sockets_within(10, 2_000) == 1


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; from loadtests.host.environment import raise_nofile_limit as raise_;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512));"
        "print(raise_(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout == "512 (512, 512)\n"
