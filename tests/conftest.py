"""Every test is bounded in time and leaves no descriptor, child process or greenlet behind."""

from __future__ import annotations

import compileall
import faulthandler
import gc
import signal
import subprocess
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
#: What a test that serves may take, at the very most, in seconds.
TEST_TIMEOUT_S = 150.0
#: How many times as long a test that is paced takes over everything, as often as it fails.
PACES = (1, 4, 16)
#: With the plugin tests.helpers.patched everything runs as in a worker that has imported its application.
IS_PATCHED = monkey.is_module_patched("threading")

settings.register_profile("gserver", deadline=None, database=None, max_examples=60)
settings.load_profile("gserver")


def pytest_configure() -> None:
    """A suite that was started in the background is deaf to INT and HUP, and so would be every process under test.

    Of those there are a thousand, and with PYTHONDONTWRITEBYTECODE each would compile what it imports once more.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for package in ("gserver", "loadtests"):
        compileall.compile_dir(ROOT / package, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Swarms come last, so that a mistake is seen early."""
    items.sort(key=lambda item: "alone" in item.keywords)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked as paced again, with longer times, where it failed. If it always does, its first
    failure is shown.

    Where four others want the processor, a client that is to speak every 20 ms may come later than its deadline of
    100 ms, and is never 1.6 s late. A deadline that does not work does not work at any pace.
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
    """The hub opens its descriptors once, which is no leak of the first test."""
    gevent.sleep(0.001)


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """What there is before a file's tests is frozen, for the search for leaks, and each full collection, goes through
    all objects that are not: with what thousands of tests leave behind, that came to 0.2 s for each that serves."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that take long bound their own time."""
    if "longhaul" in item.keywords:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    # A loop's clock stands still while nobody turns the loop, and gevent.joinall(timeout=60) and plain timers count
    # from that moment: after 20 s of tests without a turn, the first of them would be over at once.
    gevent.get_hub().loop.update_now()
    before = take_stock()
    yield
    assert_no_leaks(before)
    assert monkey.is_module_patched("threading") == IS_PATCHED, "this test patched the process of all that follow"


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Start servers and clients in this process; afterwards all are closed, and each server's counters is checked."""
    with gevent.Timeout(TEST_TIMEOUT_S), Serving() as serving:
        yield serving


@pytest.fixture(params=["pooled", "dedicated"])
def greenlets(request: pytest.FixtureRequest) -> str:
    """Both shapes of the engine, which serve alike."""
    return str(request.param)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost that is its own authority, and its key; made by openssl."""
    if path_of("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=TEST_TIMEOUT_S)
    return made
