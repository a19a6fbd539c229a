"""The orderly exit of a worker or preload process, with a time limit: exit functions, then child processes.

The process ends by os._exit(), which skips Python's exit functions. So they are called here, in Python's order: first
those registered with threading (concurrent.futures ends its processes there), then those of atexit. Non-daemon threads
are not waited for: one that never ends would delay every reload.

Then the processes below this one get TERM. Their pidfds are sent to the arbiter, which kills those that still run a
second later. This process does not wait for them, because some end by themselves only after it has ended (the resource
tracker of multiprocessing ignores TERM, and cleans up at end-of-file of its pipe).
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

__all__ = ["ProcessExit"]

log = logging.getLogger("gserver.worker")

CHECK_S = 0.05
# Between TERM and KILL if the arbiter has ended and this process must do it.
TERM_S = 1.0
# After the limit: how long the report may take before the kernel ends this process.
REPORT_S = 1.0
# At the very end: how long flushing buffered output may take.
FLUSH_S = 1.0
EXIT_OVERDUE = 1
# How many of the innermost frames of a stack are logged.
FRAMES = 12


class ProcessExit:
    """Ends this process. Must be created before the application is imported: it uses the unpatched functions.

    Args:
        channel: to the arbiter.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._thread = get_ident()
        self._greenlet: Any = None
        self._deadline: float | None = None
        self._has_begun = False

    def limit(self, seconds: float) -> None:
        """End this process after so many seconds, whatever it does. A later call replaces the limit."""
        is_first, self._deadline = self._deadline is None, time.monotonic() + seconds
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # by the kernel, in case C code holds the GIL
        signal.setitimer(signal.ITIMER_REAL, seconds + REPORT_S)
        if is_first:
            self._greenlet = _current_greenlet()
            with contextlib.suppress(RuntimeError):  # no further thread is possible: the kernel's limit remains
                start_new_thread(self._enforce_limit, ())

    def limit_if_none(self, seconds: float) -> None:
        if self._deadline is None:
            self.limit(seconds)

    def run(self) -> None:
        """Call the exit functions, once, and end the processes below this one. Raises nothing."""
        if not self._has_begun:
            self._has_begun = True
            _run_atexit()
        self._end_descendants()
        self.limit(FLUSH_S)

    def _end_descendants(self) -> None:
        found = descendants(os.getpid())
        send(found, signal.SIGTERM)
        if not self._report(found):  # the arbiter has ended
            wait_for_end(found, TERM_S)
            send(found, signal.SIGKILL)

    def _report(self, descriptors: list[int]) -> bool:
        parts = [descriptors[at : at + MAX_DESCRIPTORS] for at in range(0, len(descriptors), MAX_DESCRIPTORS)]
        return all(self._channel.send(LEFT, descriptors=part) for part in parts)

    def _enforce_limit(self) -> None:
        """In a thread: end the process when the limit is over."""
        assert self._deadline is not None
        while (left_s := self._deadline - time.monotonic()) > 0:
            sleep(min(left_s, CHECK_S))
        try:
            log.error("The process does not exit in time and is ended; its stack:\n%s", self._describe())
            self._end_descendants()
        finally:
            os._exit(EXIT_OVERDUE)

    def _describe(self) -> str:
        """The stack of the running code, and that of the greenlet that runs the exit, if it waits."""
        waiting: FrameType | None = getattr(self._greenlet, "gr_frame", None)
        frames = [frame for frame in (waiting, sys._current_frames().get(self._thread)) if frame is not None]
        return "\n".join("".join(traceback.format_stack(frame, FRAMES)) for frame in frames)


def _run_atexit() -> None:
    threading = sys.modules.get("threading")
    callbacks: list[Callable[[], None]] = getattr(threading, "_threading_atexits", [])
    for callback in reversed(callbacks):  # as threading._shutdown() does at first
        try:
            callback()
        except BaseException:
            log.exception("An exit function failed")
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # it prints exceptions itself


def _current_greenlet() -> Any:
    greenlet = sys.modules.get("greenlet")
    return greenlet.getcurrent() if greenlet is not None else None
