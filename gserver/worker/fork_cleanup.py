"""What a process that the application forks from a worker must not keep: listeners, connections, the arbiter's channel.

Close-on-exec takes them from programs that are executed; a plain fork (multiprocessing's "fork", os.fork()) has copies.
With them a listener would outlive its server, clients would wait for a socket that nobody closes, and the arbiter would
not see its worker end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

__all__ = ["in_every_fork", "make_inert", "take_default_signals"]

_WORKERS_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGABRT)

_close = os.close  # gevent's is put off until its loop turns

_leave: Callable[[], None] | None = None
_is_registered = False


def in_every_fork(leave: Callable[[], None] | None) -> None:
    """From now on call leave() first thing in every child that is forked from this process; it replaces another one."""
    global _leave, _is_registered
    _leave = leave
    if not _is_registered:
        os.register_at_fork(after_in_child=_in_child)
        _is_registered = True


def _in_child() -> None:
    global _leave
    leave, _leave = _leave, None
    if leave is not None:
        leave()


def make_inert(descriptors: Iterable[int]) -> None:
    """Let these descriptors lead nowhere, where nothing is ever ready to be read or written.

    They are not closed: objects and watchers of the event loop still have their numbers, which another file would get.
    The event loop itself, whose kernel side is the parent's too, is not touched.
    """
    own = [descriptor for descriptor in descriptors if descriptor >= 0]
    try:
        inert, _ = os.pipe()  # whose other end stays open
    except OSError:  # no descriptor is left: that they are closed matters more than their numbers
        for descriptor in own:
            _close(descriptor)
        return
    for descriptor in own:
        os.dup2(inert, descriptor, inheritable=False)
    _close(inert)


def take_default_signals() -> None:
    """What a worker does with a signal is its own: its event loop, which waits for them, does not turn in a child."""
    for number in _WORKERS_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
