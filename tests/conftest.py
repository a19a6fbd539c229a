"""Fixtures and hooks for all tests: time limits, retries of timed tests, and the check for leaks."""

from __future__ import annotations

import compileall
import faulthandler
import gc
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import monkey
from hypothesis import settings

from tests.helpers.leaks import assert_no_leaks, take_stock
from tests.helpers.peers import path_of
from tests.helpers.serving import Serving

ROOT = Path(__file__).parent.parent
#: Time limit of a test with a server, in seconds.
TEST_TIMEOUT_S = 150.0
DONT_WRITE_BYTECODE = sys.dont_write_bytecode
#: Factors on the times of a test that is marked as paced, for each attempt.
PACES = (1, 4, 16)
#: True with the plugin tests.helpers.patched: all tests run in a process that is patched like a worker's.
IS_PATCHED = monkey.is_module_patched("threading")

settings.register_profile("gserver", deadline=None, database=None, max_examples=60)
settings.load_profile("gserver")


def pytest_configure() -> None:
    """Restore signals, and compile the packages.

    A suite that was started in the background ignores INT and HUP, and processes under test would inherit that. With
    PYTHONDONTWRITEBYTECODE each of the thousand processes under test would compile the packages again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for package in ("gserver", "loadtests"):
        compileall.compile_dir(ROOT / package, quiet=2)


def pytest_collection() -> None:
    """Keep the compiled test modules for the next run, also with PYTHONDONTWRITEBYTECODE.

    To rewrite the assertions of all modules takes each process of the suite 15 s.
    """
    sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Modules that tests write, and write again a moment later, are not kept."""
    sys.dont_write_bytecode = DONT_WRITE_BYTECODE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests marked as alone last, so that other failures are seen early."""
    items.sort(key=lambda item: "alone" in item.keywords)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked as paced again with longer times if it fails; report the first failure if all fail.

    On a busy host a client that sends every 20 ms may miss a deadline of 100 ms, but it is never 1.6 s late. A deadline
    that does not work fails with all times.
    """
    marker = pyfuncitem.get_closest_marker("paced")
    if marker is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    times = {name: pyfuncitem.function.__globals__[name] for name in marker.args}
    failure: Exception | None = None
    try:
        for slower in PACES:
            pyfuncitem.function.__globals__.update({name: time_s * slower for name, time_s in times.items()})
            try:
                pyfuncitem.obj(**arguments)
                return True
            except (AssertionError, OSError) as error:
                failure = failure or error
    finally:
        pyfuncitem.function.__globals__.update(times)
    assert failure is not None
    raise failure


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """Let gevent's hub open its descriptors before the first test, so that they are no leak of it."""
    gevent.sleep(0.001)


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Freeze the existing objects, so that the check for leaks and full collections skip them.

    Without this, the objects of thousands of earlier tests added 0.2 s to each test with a server.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Switch off the time limit for longhaul tests, which have their own."""
    if "longhaul" in item.keywords:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    # The loop's clock is updated only while the loop runs, and timers count from it. After 20 s of tests that do not
    # run the loop, a timer of 20 s would fire at once.
    gevent.get_hub().loop.update_now()
    before = take_stock()
    yield
    assert_no_leaks(before)
    assert monkey.is_module_patched("threading") == IS_PATCHED, "this test patched the process, also for later tests"


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Start servers and clients in this process; afterwards all are closed and the counters are checked."""
    with gevent.Timeout(TEST_TIMEOUT_S), Serving() as serving:
        yield serving


@pytest.fixture(params=["pooled", "dedicated"])
def greenlets(request: pytest.FixtureRequest) -> str:
    """Run the test with both settings of `greenlets`."""
    return str(request.param)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of a self-signed certificate for localhost and of its key, made with openssl."""
    if path_of("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=TEST_TIMEOUT_S)
    return made
