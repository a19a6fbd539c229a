"""The profiler: which code runs, on servers in this process. tests/integration/test_profiler.py has a real worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from gserver import JsonService, Service, handlers, stream
from gserver.codecs import Lines
from gserver.worker import profiler as module
from gserver.worker.profiler import INTERVAL_S, MAX_SECONDS, CannotProfile, Profile, Profiler
from tests.helpers.serving import Serving
from tests.helpers.waiting import wait_until

really_sleep = get_original("time", "sleep")
BURN_S = 0.4
#: A sampled duration may be wrong by a sample at either end.
SLACK_S = 4 * INTERVAL_S
LINE = re.compile(r"[^ ;]+(;[^ ;]+)* [1-9][0-9]*")


def read_collapsed(lines: Iterator[str]) -> dict[tuple[str, ...], int]:
    """Parse collapsed stacks as flamegraph.pl does: names up to the last space, then the count."""
    found = {}
    for line in lines:
        assert LINE.fullmatch(line), line
        assert line.isprintable()
        stack, _, count = line.rpartition(" ")
        found[tuple(stack.split(";"))] = int(count)
    return found


def roots(profile: Profile) -> dict[str, int]:
    """The samples of each root, without the module of this test."""
    found: dict[str, int] = {}
    for stack, count in read_collapsed(profile.lines()).items():
        root = stack[0].replace(f"{__name__}:", "")
        found[root] = found.get(root, 0) + count
    return found


def burn(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def answer(line: bytes, conn: Any) -> bytes:
    if line == b"burn":
        burn(BURN_S)
    elif line == b"wait":
        gevent.sleep(BURN_S)
    elif line == b"block":
        really_sleep(BURN_S)
    return line


@pytest.fixture
def profiler() -> Iterator[Profiler]:
    one = Profiler(Service(answer, Lines))
    yield one
    if module._running is not None:
        module._running.end()
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL


def profile_of(profiler: Profiler, serving: Serving, served: Any, line: bytes, greenlets: str = "pooled") -> Profile:
    peer = serving.meet(serving.start(served, greenlets=greenlets))
    profiler.start(60)
    peer.ask(line)
    return profiler.stop()


@pytest.mark.parametrize(("line", "function"), [(b"burn", "burn"), (b"block", "answer")])
def test_a_handler_that_keeps_the_worker_busy_is_the_top_entry(
    profiler: Profiler, serving: Serving, greenlets: str, line: bytes, function: str
) -> None:
    profile = profile_of(profiler, serving, Service(answer, Lines), line, greenlets)

    name, samples = profile.top(1)[0]
    assert name == f"{__name__}:{function}"
    assert samples * INTERVAL_S >= BURN_S - SLACK_S
    ours = {root: count for root, count in roots(profile).items() if root == "handler:answer"}
    assert sum(ours.values()) * INTERVAL_S >= BURN_S - SLACK_S
    # One stack for each line of the function that was seen running.
    stacks = [stack for stack in read_collapsed(profile.lines()) if f":{function}:" in stack[-1]]
    assert {stack[0] for stack in stacks} == {f"handler:{__name__}:answer"}
    assert all(any(frame.startswith(f"{__name__}:answer:") for frame in stack) for stack in stacks)


def test_a_handler_that_waits_is_not_counted_as_running(profiler: Profiler, serving: Serving, greenlets: str) -> None:
    profile = profile_of(profiler, serving, Service(answer, Lines), b"wait", greenlets)

    assert roots(profile).get("handler:answer", 0) * INTERVAL_S < BURN_S / 2
    assert profile.seconds >= BURN_S
    assert profile.idle * INTERVAL_S > BURN_S / 2
    assert profile.cpu_s < profile.seconds


def test_all_time_is_counted(profiler: Profiler, serving: Serving) -> None:
    profile = profile_of(profiler, serving, Service(answer, Lines), b"burn")

    assert profile.samples == sum(read_collapsed(profile.lines()).values()) + profile.idle
    # The time between the last sample and stop() is missing: on a busy machine it may be longer than an interval.
    assert profile.seconds / 2 <= profile.samples * INTERVAL_S <= profile.seconds + SLACK_S


def test_c_code_counts_for_all_of_its_time(profiler: Profiler) -> None:
    profiler.start(60)
    began_at = time.monotonic()
    sum(range(10_000_000))
    took_s = time.monotonic() - began_at
    profile = profiler.stop()

    assert profile.top(1)[0][1] * INTERVAL_S >= took_s - SLACK_S


def first_greenlet() -> None:
    for _ in range(20):
        burn(BURN_S / 20)
        gevent.sleep(0)


def second_greenlet() -> None:
    for _ in range(20):
        burn(BURN_S / 40)
        gevent.sleep(0)


def test_greenlets_that_take_turns_are_told_apart(profiler: Profiler) -> None:
    profiler.start(60)
    gevent.joinall([gevent.spawn(first_greenlet), gevent.spawn(second_greenlet)])
    found = roots(profiler.stop())

    first, second = found["greenlet:first_greenlet"], found["greenlet:second_greenlet"]
    assert first * INTERVAL_S >= BURN_S - 20 * INTERVAL_S
    assert first > second > 0


def test_the_root_names_what_runs(profiler: Profiler, serving: Serving) -> None:
    api = JsonService()

    @api.on("BURN")
    def add(message: Any, conn: Any) -> dict[str, bool]:
        burn(BURN_S)
        return {"done": True}

    @stream(codec=Lines)
    def converse(conn: Any) -> None:
        for line in conn:
            burn(BURN_S)
            conn.send(line)

    class Slow(Lines):
        def encode(self, message: bytes) -> bytes:
            burn(BURN_S)
            return super().encode(message)

    def expire() -> None:
        burn(BURN_S)
        fired.append(True)

    slow = Service(lambda line, conn: line, Slow)
    found: dict[str, int] = {}
    for served, line in ((api, b'{"type":"BURN"}'), (converse, b"x"), (slow, b"x")):
        found |= roots(profile_of(Profiler(served), serving, served, line))
    profiler.start(60)
    watcher: Any = gevent.get_hub().loop.timer(0.001)
    fired: list[bool] = []
    watcher.start(expire)
    wait_until(lambda: fired)
    watcher.close()
    found |= roots(profiler.stop())

    here = "test_the_root_names_what_runs.<locals>."
    for root in (f"handler:{here}add", f"handler:{here}converse", f"codec:{here}Slow.encode", "event_loop"):
        assert found[root] * INTERVAL_S >= BURN_S - SLACK_S, (root, found)


def test_cpu_time_without_a_stack_is_that_of_the_event_loop(profiler: Profiler) -> None:
    """C code that is called by no Python function, such as sending; libev itself in this test."""
    profiler.start(60)
    sampling: Any = module._running
    sampling._in_hub, sampling._cpu_at = 1000, time.thread_time() - 100 * INTERVAL_S
    profile = profiler.stop()
    computed = profile.stacks["event_loop"]

    assert 100 - 2 <= computed <= 100 + BURN_S / INTERVAL_S
    assert (profile.idle, dict(profile.top())["event_loop"]) == (1000 - computed, computed)
    assert profile.samples == sum(profile.stacks.values()) + profile.idle


def test_names_of_roots() -> None:
    """Stacks that no test brings about for sure."""

    def root(*frames: str) -> str:
        return module._root(list(enumerate(frames)), frozenset([99]))

    run = "gserver.engine.schedulers:PooledEngine._run"
    assert root(run) == root(run, "gserver.codecs.lines:Lines.receive") == "message_loop"
    assert root("gserver.server.tcp_server:TcpServer._accept") == "gserver"
    assert root(run, "gserver.handlers.echo:echo") == "handler:gserver.handlers.echo:echo"
    assert root("gevent.hub:Hub.run", "gserver.worker.worker:Worker._heartbeat") == "event_loop"
    assert root("gevent.greenlet:Greenlet.run", "app:poll") == "greenlet:app:poll"
    assert root("gserver_app:main") == "greenlet:gserver_app:main"


def test_the_built_in_echo_runs_no_slower_stack(profiler: Profiler, serving: Serving) -> None:
    peer = serving.meet(serving.start(handlers.echo()))
    profiler.start(60)
    for _ in range(2000):
        peer.send(b"x")
        peer.read()
    profile = profiler.stop()

    assert profile.samples > 0
    assert all(stack[0].count(":") in (0, 2) for stack in read_collapsed(profile.lines()))


def test_names_have_no_character_with_a_meaning() -> None:
    names = {"__name__": "my app;x\n"}
    exec("def burn(frames):\n    frames.append(__import__('sys')._getframe())", names)
    frames: list[Any] = []
    names["burn"](frames)  # type: ignore[operator]

    assert module._name(frames[0]) == "my_app_x_:burn"
    assert module._clean("x" * 1000) == "x" * module.MAX_NAME
    without_module: Any = SimpleNamespace(f_globals={}, f_code=SimpleNamespace(co_filename="a.py", co_qualname="f"))
    assert module._name(without_module) == "a.py:f"


# Limits


def deep(depth: int, seconds: float) -> None:
    if depth:
        deep(depth - 1, seconds)
    else:
        burn(seconds)


def test_the_middle_of_a_deep_stack_is_left_out(profiler: Profiler) -> None:
    profiler.start(60)
    deep(500, BURN_S)
    found = read_collapsed(profiler.stop().lines())

    stack = max((stack for stack in found if "deep:" in stack[-2]), key=lambda stack: found[stack])
    assert len(stack) == module.MAX_FRAMES + 2  # the root, and the entry for the frames that are left out
    assert stack.count("...") == 1


def test_stacks_beyond_the_limit_are_only_counted(profiler: Profiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STACKS", 1)
    profiler.start(60)
    for depth in range(30):
        deep(depth, 2 * INTERVAL_S)
    profile = profiler.stop()

    assert len(profile.stacks) == 1
    assert profile.overflowed > 0
    assert read_collapsed(profile.lines())["...",] == profile.overflowed
    assert profile.samples == sum(profile.stacks.values()) + profile.overflowed + profile.idle


def test_a_failing_sample_disturbs_nothing(profiler: Profiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RecursionError

    monkeypatch.setattr(module._Sampling, "_count", fail)
    profiler.start(60)
    burn(BURN_S)

    assert profiler.stop().samples == 0


# Beginning and end


def test_it_ends_by_itself_and_keeps_the_result(profiler: Profiler) -> None:
    profiler.start(0.1)
    assert profiler.is_running
    wait_until(lambda: not profiler.is_running)

    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
    gevent.sleep(5 * INTERVAL_S)
    profile = profiler.stop()
    assert abs(profile.samples * INTERVAL_S - 0.1) <= SLACK_S
    assert profile.seconds >= 0.1
    with pytest.raises(CannotProfile, match="no profile was started"):
        profiler.stop()


def test_there_is_one_at_a_time_in_a_process(profiler: Profiler) -> None:
    profiler.start(60)
    for other in (profiler, Profiler()):
        with pytest.raises(CannotProfile, match="running already"):
            other.start(1)
    assert profiler.is_running
    profiler.stop()
    profiler.start(60)
    profiler.stop()


def test_a_new_profile_replaces_one_that_was_not_collected(profiler: Profiler) -> None:
    profiler.start(0.05)
    wait_until(lambda: not profiler.is_running)
    profiler.start(60)

    assert profiler.stop().seconds < 60


@pytest.mark.parametrize("seconds", [0, -1, MAX_SECONDS + 1, float("nan"), float("inf")])
def test_seconds_that_are_not_allowed_are_named(profiler: Profiler, seconds: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"seconds is {seconds!r}, must be more than 0 and at most 300")):
        profiler.start(seconds)
    assert not profiler.is_running


def test_a_handler_of_the_application_is_not_replaced(profiler: Profiler) -> None:
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    with pytest.raises(CannotProfile, match="handles SIGPROF itself"):
        profiler.start(1)
    assert signal.signal(signal.SIGPROF, before) is signal.SIG_IGN


def test_without_a_timer_there_is_no_profile(profiler: Profiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module, "SignalTimer", fail)
    with pytest.raises(CannotProfile, match=r"no timer for it: .Errno 11. Resource"):
        profiler.start(1)
    assert not profiler.is_running


def test_a_forked_child_is_not_profiled(profiler: Profiler) -> None:
    profiler.start(60)
    pid = os.fork()
    if pid == 0:
        is_clean = not profiler.is_running and signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
        profiler.start(0.2)  # it may be profiled itself
        burn(BURN_S)
        os._exit(0 if is_clean and profiler.stop().samples else 1)
    _, status = os.waitpid(pid, 0)
    burn(BURN_S)

    assert status == 0
    assert profiler.is_running
    assert any("burn" in name for name, _ in profiler.stop().top())


ENDS = """
import sys, time
from gserver.worker.profiler import Profiler
profiler = Profiler()
profiler.start(60)
if sys.argv[1] == "fails":
    raise ValueError("on purpose")
"""


@pytest.mark.parametrize(("how", "status"), [("returns", 0), ("fails", 1)])
def test_a_process_may_end_in_the_middle(how: str, status: int) -> None:
    """Without its handler, the signal would kill the process while the interpreter ends."""
    done = subprocess.run([sys.executable, "-c", ENDS, how], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == status, done.stderr
