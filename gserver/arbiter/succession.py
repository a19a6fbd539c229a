"""A new arbiter in place of a running one, on the same sockets: USR2, as nginx and gunicorn have it.

The old arbiter executes its own command again. The listeners are inherited, and with them one end of a pipe, the
lifeline: end-of-file on it tells the new arbiter that the old one is gone. A variable says which descriptor is which.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from gserver.arbiter.signals import SignalQueue
from gserver.bind import Bind, parse_bind
from gserver.process.child import fork_child

__all__ = ["Command", "Inheritance", "Succession", "take_inheritance"]

log = logging.getLogger("gserver.arbiter")

VARIABLE = "GSERVER_INHERITS"
Descriptors = Mapping[Bind, Sequence[int]]


@dataclass(frozen=True)
class Inheritance:
    """What an arbiter got from the one before it."""

    listeners: Descriptors = field(default_factory=dict)
    lifeline: int | None = None
    activated: tuple[Bind, ...] = ()  # the sockets that systemd once passed


@dataclass(frozen=True)
class Command:
    """How this process was started: what it takes to do it again. Made before it changes its directory."""

    words: tuple[str, ...]
    folder: str

    @classmethod
    def of_this_process(cls) -> Command:
        # The interpreter by its path: the name it was called by may mean another one by then.
        return cls((sys.executable, *sys.orig_argv[1:]), os.getcwd())


class Succession:
    """The arbiter before this one and the one after it, as far as there are any.

    Closes: close() closes the lifelines, which tells a successor that this arbiter is gone.
    """

    def __init__(self, command: Command, inheritance: Inheritance) -> None:
        self._command = command
        self.inherited = inheritance.listeners
        self._from_predecessor = inheritance.lifeline
        self._to_successor: int | None = None
        self._successor: int | None = None  # its pid

    @property
    def has_predecessor(self) -> bool:
        return self._from_predecessor is not None

    @property
    def is_under_way(self) -> bool:
        """Whether another arbiter holds the same listeners."""
        return self.has_predecessor or self._successor is not None

    def fileno(self) -> int:
        """For select, while there is a predecessor: readable when it is gone."""
        assert self._from_predecessor is not None
        return self._from_predecessor

    def predecessor_ended(self) -> None:
        assert self._from_predecessor is not None
        os.close(self._from_predecessor)
        self._from_predecessor = None

    def begin(self, signals: SignalQueue, listeners: Descriptors, activated: Sequence[Bind]) -> int:
        """Start the new arbiter; return its pid."""
        lifeline, self._to_successor = os.pipe()
        with signals.held():
            pid = fork_child(functools.partial(self._become_successor, signals, lifeline, listeners, activated))
        os.close(lifeline)
        self._successor = pid
        return pid

    def lost(self, pid: int) -> bool:
        """A child has ended: whether it was the successor, of which there is none then."""
        if pid != self._successor:
            return False
        self._successor = None
        self.close()
        return True

    def close(self) -> None:
        if self._to_successor is not None:
            os.close(self._to_successor)
            self._to_successor = None

    def leave_to_worker(self) -> None:
        """In a worker: both lifelines are the arbiter's."""
        self.close()
        if self._from_predecessor is not None:
            os.close(self._from_predecessor)

    def _become_successor(
        self, signals: SignalQueue, lifeline: int, listeners: Descriptors, activated: Sequence[Bind]
    ) -> int:
        """In the child: become another program, or return an exit status."""
        signals.leave_to_child()
        try:
            _unignore_signals()
            for descriptor in (lifeline, *(each for group in listeners.values() for each in group)):
                os.set_inheritable(descriptor, True)
            value = {
                "listeners": [[str(bind), list(descriptors)] for bind, descriptors in listeners.items()],
                "lifeline": lifeline,
                "activated": [str(bind) for bind in activated],
            }
            os.environ[VARIABLE] = json.dumps(value)
            os.environ.pop("WATCHDOG_PID", None)  # systemd's watchdog means this service, whoever its main process is
            os.chdir(self._command.folder)
            os.execve(self._command.words[0], self._command.words, os.environ)
        except OSError as error:
            log.error("Cannot execute a new arbiter: %s", error)
        return 1


def _unignore_signals() -> None:
    """What is ignored stays so in a new program (signal(7)); Python's own choice, SIGPIPE, it will make again."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def take_inheritance(environ: MutableMapping[str, str]) -> Inheritance:
    """What this process was left by an arbiter before it, and the variable out of the environment."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return Inheritance()
    value = json.loads(text)
    os.set_inheritable(value["lifeline"], False)
    return Inheritance(
        {parse_bind(bind): descriptors for bind, descriptors in value["listeners"]},
        value["lifeline"],
        tuple(parse_bind(bind) for bind in value["activated"]),
    )
