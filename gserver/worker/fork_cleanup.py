"""Detaches processes that the application forks from a worker: listeners, connections, the channel, signals.

Close-on-exec closes these descriptors in executed programs. But a plain fork (os.fork(), or multiprocessing's "fork")
keeps copies: then a listener stays open after the server's end, clients wait for a socket that is never closed, and the
arbiter does not notice the end of its worker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

__all__ = ["make_inert", "reset_signals", "run_in_every_fork"]

_WORKERS_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGABRT)

_close = os.close  # gevent's version closes later, in its event loop

_clean_up: Callable[[], None] | None = None
_is_registered = False


def run_in_every_fork(clean_up: Callable[[], None] | None) -> None:
    """Call clean_up() first in every child that is forked from this process. Replaces an earlier function."""
    global _clean_up, _is_registered
    _clean_up = clean_up
    if not _is_registered:
        os.register_at_fork(after_in_child=_in_child)
        _is_registered = True


def _in_child() -> None:
    global _clean_up
    clean_up, _clean_up = _clean_up, None
    if clean_up is not None:
        clean_up()


def make_inert(descriptors: Iterable[int]) -> None:
    """Replace these descriptors by the read end of an empty pipe, which never becomes readable.

    They are not closed: objects and watchers of the event loop still use their numbers, which another file would get.
    The descriptor of the event loop is not touched: the parent shares its kernel object.
    """
    own = [descriptor for descriptor in descriptors if descriptor >= 0]
    try:
        inert, _ = os.pipe()  # the write end stays open, so that there is no end-of-file
    except OSError:  # no descriptor is left: closing them matters more than keeping their numbers
        for descriptor in own:
            _close(descriptor)
        return
    for descriptor in own:
        os.dup2(inert, descriptor, inheritable=False)
    _close(inert)


def reset_signals() -> None:
    """Restore the default actions of signals: the worker's event loop, which handles them, does not run in a child."""
    for number in _WORKERS_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
