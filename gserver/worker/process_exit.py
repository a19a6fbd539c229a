"""How the process of a worker or a mold ends in order: atexit, then what its application has started, in bounded time.

os._exit() runs nothing that Python runs at a program's end, so it is done here, in the same order: what threading was
given (concurrent.futures ends its processes there), what atexit was given. Threads that are not daemons are not waited
for: one that never ends would hold up every reload.

Then the processes below this one get TERM, and their descriptors go to the arbiter, which sends KILL to those that are
there a second later. This process does not wait for them: some end by themselves when it is gone, and should (the
resource tracker of multiprocessing ignores TERM, and cleans up at the end of its pipe).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from time import sleep
from types import FrameType
from typing import Any

from gserver.arbiter.channel import LEFT, MAX_DESCRIPTORS, Channel
from gserver.process.descendants import descendants, send, wait_for_end

__all__ = ["Ending"]

log = logging.getLogger("gserver.worker")

LOOK_S = 0.05
# Between TERM and KILL, where there is no arbiter to do it.
TERM_S = 1.0
# After the time is over: what it may take to say so, before the kernel ends this process.
LAST_WORDS_S = 1.0
# After all that: what is buffered goes out, if somebody reads it.
FLUSH_S = 1.0
HANGS = 1
# Of its stack: the innermost.
FRAMES = 12


class Ending:
    """The end of this process. Whatever is imported later and patches things: it uses the system's own.

    Args:
        channel: to the arbiter.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._thread = get_ident()
        self._greenlet: Any = None
        self._ends_by: float | None = None
        self._has_begun = False

    def limit(self, seconds: float) -> None:
        """From now on this process has so long to end; then it ends whatever it does. Called again: the new limit."""
        is_first, self._ends_by = self._ends_by is None, time.monotonic() + seconds
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel's, for what holds the interpreter's lock
        signal.setitimer(signal.ITIMER_REAL, seconds + LAST_WORDS_S)
        if is_first:
            self._greenlet = _current_greenlet()
            with contextlib.suppress(RuntimeError):  # there can be no more threads: the kernel's limit remains
                start_new_thread(self._watch, ())

    def limit_if_none(self, seconds: float) -> None:
        if self._ends_by is None:
            self.limit(seconds)

    def run(self) -> None:
        """Run what is to be run at the end, once, and end what was started. Raises nothing."""
        if not self._has_begun:
            self._has_begun = True
            _run_atexit()
        self._end_descendants()
        self.limit(FLUSH_S)

    def _end_descendants(self) -> None:
        found = descendants(os.getpid())
        send(found, signal.SIGTERM)
        if not self._report(found):  # the arbiter is gone
            wait_for_end(found, TERM_S)
            send(found, signal.SIGKILL)

    def _report(self, descriptors: list[int]) -> bool:
        parts = [descriptors[at : at + MAX_DESCRIPTORS] for at in range(0, len(descriptors), MAX_DESCRIPTORS)]
        return all(self._channel.send(LEFT, descriptors=part) for part in parts)

    def _watch(self) -> None:
        """The thread that ends the process when its time is over."""
        assert self._ends_by is not None
        while (left_s := self._ends_by - time.monotonic()) > 0:
            sleep(min(left_s, LOOK_S))
        try:
            log.error("The process does not end in time, and is ended; it stands at:\n%s", self._describe())
            self._end_descendants()
        finally:
            os._exit(HANGS)

    def _describe(self) -> str:
        """The stack of what runs, and that of the greenlet which ends the process, where it waits."""
        waits: FrameType | None = getattr(self._greenlet, "gr_frame", None)
        frames = [frame for frame in (waits, sys._current_frames().get(self._thread)) if frame is not None]
        return "\n".join("".join(traceback.format_stack(frame, FRAMES)) for frame in frames)


def _run_atexit() -> None:
    threading = sys.modules.get("threading")
    callbacks: list[Callable[[], None]] = getattr(threading, "_threading_atexits", [])
    for callback in reversed(callbacks):  # threading._shutdown() begins with them
        try:
            callback()
        except BaseException:
            log.exception("What is to be run at the end failed")
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # it says by itself what was raised


def _current_greenlet() -> Any:
    greenlet = sys.modules.get("greenlet")
    return greenlet.getcurrent() if greenlet is not None else None
