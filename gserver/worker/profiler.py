"""A sampling profiler for a running worker: which code its main thread runs, as collapsed stacks.

A timer of the kernel sends SIGPROF to the main thread some 100 times a second, and the handler of that signal counts
the stack that it has interrupted. So all greenlets are seen, each only while it runs, and also a call that blocks the
event loop. A thread that reads sys._current_frames() would be simpler, but it gets the interpreter's lock only where
the main thread gives it up, which is nearly always where the event loop waits: docs/decisions.md has the figures.

The samples are of wall time. Python runs a signal handler between two bytecodes: a sample that comes late, because C
code ran, counts for all the intervals that have passed. The time of C code that no Python function has called, such as
receiving, is counted for the Python function that runs next. If the event loop is next, such as after sending, the
samples look like those of a waiting loop. They are told apart by the CPU time of the thread: what it used beyond the
samples of stacks is an entry of its own, `event_loop`, and only the rest is idle.

Nothing runs, and no memory is held, before the first start(). The handler holds neither frames nor locals, only code
objects.
"""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from gevent.hub import Hub

from gserver.process.signal_timer import SignalTimer

__all__ = ["INTERVAL_S", "MAX_SECONDS", "CannotProfile", "Profile", "Profiler"]

#: Seconds between two samples. No divisor of usual periods: otherwise periodic work is hit always, or never.
INTERVAL_S = 0.0101
#: The longest profile, in seconds.
MAX_SECONDS = 300.0
#: Different stacks that are kept. Samples of further ones are only counted.
MAX_STACKS = 5_000
# Frames of a stack that are kept: half of them the outermost, half the innermost. More are replaced by one entry.
MAX_FRAMES = 128
# Of deeper recursion, so many of the innermost frames are read.
MAX_DEPTH = 2_000
MAX_NAME = 200

#: The root of a stack that runs neither a handler nor a greenlet of the application.
EVENT_LOOP, MESSAGE_LOOP, SERVER = "event_loop", "message_loop", "gserver"
LEFT_OUT = "..."

# A stack as it is counted: the id of a code object and a line for each frame, from the innermost one.
Stack = tuple[int, ...]


class CannotProfile(Exception):
    """start() or stop() is not possible now; the text has the reason."""


@dataclass(frozen=True)
class Profile:
    """What was sampled. All counts are samples of `interval_s` seconds each.

    Attributes:
        seconds: how long it was sampled.
        cpu_s: the CPU time of the main thread meanwhile. It is less than the time of the samples that are not idle if
            code waits without the event loop, or if other processes had the processor.
        samples: all samples: those of the stacks, and idle and overflowed ones.
        idle: samples while the event loop waited. They have no stack.
        overflowed: samples of stacks beyond the 5,000 that are kept.
        stacks: the count of each stack; its names are separated by ";", from the root to the innermost frame.
    """

    seconds: float
    interval_s: float
    cpu_s: float
    samples: int
    idle: int
    overflowed: int
    stacks: dict[str, int] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """The collapsed stacks, "root;caller;function 12", the most frequent first, for flamegraph.pl and speedscope.

        The samples that have overflowed are a line of their own.
        """
        for stack, count in sorted(self.stacks.items(), key=lambda entry: (-entry[1], entry[0])):
            yield f"{stack} {count}"
        if self.overflowed:
            yield f"{LEFT_OUT} {self.overflowed}"

    def top(self, count: int = 10) -> list[tuple[str, int]]:
        """The functions, as module:function, that were the innermost one most often, with their samples."""
        innermost: Counter[str] = Counter()
        for stack, samples in self.stacks.items():
            name = stack.rpartition(";")[2]
            innermost[name.rpartition(":")[0] or name] += samples
        return innermost.most_common(count)


class Profiler:
    """Profiles the main thread, which also calls its methods. There is one profile at a time in a process.

    Args:
        served: the applications: the methods of their codecs are named as those of a codec, not of a handler.
    """

    def __init__(self, *served: object) -> None:
        self._codecs = [each.codec for each in served if hasattr(each, "codec")]
        self._sampling: _Sampling | None = None

    @property
    def is_running(self) -> bool:
        return self._sampling is not None and self._sampling.is_running

    def start(self, seconds: float) -> None:
        """Sample for `seconds`; then sampling ends by itself, and the result is kept for stop().

        Raises:
            ValueError: `seconds` is not above 0 and at most 300.
            CannotProfile: a profile runs already, the application handles SIGPROF, or the system has no timer for it.
        """
        if not 0 < seconds <= MAX_SECONDS:  # NaN fails this too
            raise ValueError(f"seconds is {seconds!r}, must be more than 0 and at most {MAX_SECONDS:g}")
        if _running is not None:
            raise CannotProfile("a profile is running already")
        if signal.getsignal(signal.SIGPROF) is not signal.SIG_DFL:
            raise CannotProfile("the application handles SIGPROF itself, which profiling needs")
        self._sampling = _Sampling(seconds)

    def stop(self) -> Profile:
        """End the sampling, if it still runs, and return its result, once. CannotProfile if there is none."""
        sampling, self._sampling = self._sampling, None
        if sampling is None:
            raise CannotProfile("no profile was started")
        sampling.end()
        return sampling.result(frozenset().union(*map(_codes, self._codecs)))


#: The one that runs in this process, and whether the functions for a fork and the exit are registered.
_running: _Sampling | None = None
_is_registered = False


def _end_in_child() -> None:
    """In a forked child: its parent goes on sampling, the child has no timer."""
    if _running is not None:
        _running.forget_timer()
        _running.end()


def _end_at_exit() -> None:
    """Before the interpreter resets the handler: without one, the signal would kill the process."""
    if _running is not None:
        _running.end()


class _Sampling:
    """Counts stacks from its creation to its end."""

    def __init__(self, seconds: float) -> None:
        global _running, _is_registered
        if not _is_registered:
            os.register_at_fork(after_in_child=_end_in_child)
            atexit.register(_end_at_exit)
            _is_registered = True
        self._stacks: dict[Stack, int] = {}
        self._names: dict[int, tuple[CodeType, str]] = {}  # by id; the reference keeps the id from being used again
        self._ticks = self._in_hub = self._overflowed = 0
        self._is_sampling = False
        self.is_running = True
        self._cpu_at, self._began_at = time.thread_time(), time.monotonic()
        self._cpu_s = self._seconds = 0.0
        self._until = self._began_at + seconds
        signal.signal(signal.SIGPROF, self._sample)
        signal.siginterrupt(signal.SIGPROF, False)  # the system calls of libraries go on by themselves
        try:
            self._timer = SignalTimer(signal.SIGPROF, INTERVAL_S)
        except OSError as error:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            raise CannotProfile(f"the system has no timer for it: {error}") from error
        _running = self

    def forget_timer(self) -> None:
        self._timer.forget()

    def end(self) -> None:
        """Delete the timer and restore the signal. Does nothing the second time."""
        global _running
        if not self.is_running:
            return
        self.is_running, _running = False, None
        self._timer.stop()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        self._cpu_s = time.thread_time() - self._cpu_at
        self._seconds = time.monotonic() - self._began_at

    def result(self, codec_codes: frozenset[int]) -> Profile:
        stacks: Counter[str] = Counter()
        for stack, count in self._stacks.items():
            stacks[_collapsed(stack, self._names, codec_codes)] += count
        sampled = stacks.total() + self._overflowed
        computed = min(self._in_hub, max(0, round(self._cpu_s / INTERVAL_S) - sampled))
        if computed:
            stacks[EVENT_LOOP] = computed
        idle, samples = self._in_hub - computed, self._in_hub + sampled
        return Profile(self._seconds, INTERVAL_S, self._cpu_s, samples, idle, self._overflowed, dict(stacks))

    def _sample(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: an exception here would be raised in the code that runs."""
        if self._is_sampling or not self.is_running:
            return
        self._is_sampling = True
        try:
            now = time.monotonic()
            ticks = int((min(now, self._until) - self._began_at) / INTERVAL_S + 0.5)
            count, self._ticks = ticks - self._ticks, ticks
            if frame is not None and count > 0:
                self._count(frame, count)
            if now >= self._until:
                self.end()
        except Exception:  # such as a RecursionError of the code that runs
            return
        finally:
            self._is_sampling = False

    def _count(self, innermost: FrameType, count: int) -> None:
        if innermost.f_code is Hub.run.__code__:
            self._in_hub += count
            return
        frames: list[FrameType] = []
        frame: FrameType | None = innermost
        while frame is not None and len(frames) < MAX_DEPTH:
            frames.append(frame)
            frame = frame.f_back
        if len(frames) > MAX_FRAMES:
            frames[MAX_FRAMES // 2 : -MAX_FRAMES // 2] = [frames[MAX_FRAMES // 2]]
        stack = tuple([part for each in frames for part in (id(each.f_code), each.f_lineno or 0)])
        if stack in self._stacks:
            self._stacks[stack] += count
        elif len(self._stacks) < MAX_STACKS:
            self._stacks[stack] = count
            for each in frames:
                if id(each.f_code) not in self._names:
                    self._names[id(each.f_code)] = each.f_code, _name(each)
        else:
            self._overflowed += count


def _name(frame: FrameType) -> str:
    module = frame.f_globals.get("__name__") or frame.f_code.co_filename
    return f"{_clean(module)}:{_clean(frame.f_code.co_qualname)}"


def _clean(name: object) -> str:
    """Without characters that have a meaning in collapsed stacks, and not longer than a screen."""
    return "".join(each if each.isprintable() and each not in " ;:" else "_" for each in str(name)[:MAX_NAME])


def _collapsed(stack: Stack, names: dict[int, tuple[CodeType, str]], codec_codes: frozenset[int]) -> str:
    entries = list(zip(stack[::2], stack[1::2], strict=True))
    frames = [f"{names[code][1]}:{line}" for code, line in entries]
    if len(frames) > MAX_FRAMES:
        frames[MAX_FRAMES // 2] = LEFT_OUT
    frames.append(_root([(code, names[code][1]) for code, _ in reversed(entries)], codec_codes))
    return ";".join(reversed(frames))


def _root(frames: list[tuple[int, str]], codec_codes: frozenset[int]) -> str:
    """The first entry of a stack: what kind of thing runs, and the first function that is the application's.

    handler:module:function, codec:module:function, greenlet:module:function (of the application, without a
    connection); event_loop (a callback of a watcher or a timer), message_loop (without a handler: receiving, sending),
    gserver (any other greenlet of the server).

    Args:
        frames: from the outermost one: the id of the code, and module:function.
    """
    modules = [name.partition(":")[0] for _, name in frames]
    if frames[0][1] == f"{Hub.__module__}:{Hub.run.__qualname__}":
        return EVENT_LOOP
    users = next((index for index, module in enumerate(modules) if not _is_server(module)), None)
    if users is None:
        return MESSAGE_LOOP if any(module.startswith("gserver.engine.") for module in modules) else SERVER
    code, name = frames[users]
    if code in codec_codes:
        return f"codec:{name}"
    is_called_by_server = any(module.startswith("gserver.") for module in modules[:users])
    return f"{'handler' if is_called_by_server else 'greenlet'}:{name}"


def _is_server(module: str) -> bool:
    """Whether a module is the server's machinery. The built-in services are applications like others."""
    package = module.partition(".")[0]
    return package in ("gserver", "gevent", "greenlet") and not module.startswith("gserver.handlers")


def _codes(codec: Any) -> frozenset[int]:
    """The ids of the code objects of a codec class, or of functools.partial of one."""
    kind = getattr(codec, "func", codec)
    methods = [each for base in getattr(kind, "__mro__", ()) for each in vars(base).values()]
    return frozenset(id(each.__code__) for each in methods if hasattr(each, "__code__"))
