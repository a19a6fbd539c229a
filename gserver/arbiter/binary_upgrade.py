"""A new arbiter in place of a running one, on the same sockets: USR2, as nginx and gunicorn have it.

The old arbiter executes its own command again. The listeners are inherited, and with them one end of a pipe, the
lifeline. A byte on it means that the old arbiter has been told to stop, and leaves the service to the new one while it
drains; end-of-file means that it is gone. A variable names the descriptors.

systemd waits at a stop only for a main process that is its own child. So the old arbiter is not the new one's parent: a
process between them is, the midwife, which ends when the new arbiter ends, with its status, or when the old one leaves.
Then whoever adopts orphans, systemd, is the new arbiter's parent while the old one still runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from gserver.arbiter.signals import SignalQueue
from gserver.config.addresses import Bind, parse_bind
from gserver.config.working_directory import absolute, enter, working_folder
from gserver.errors import ConfigError
from gserver.process.child import fork_child
from gserver.process.pidfile import Pidfile
from gserver.process.proctitle import set_title
from gserver.process.systemd import Notifier

__all__ = ["Command", "Inheritance", "Succession", "take_inheritance"]

log = logging.getLogger("gserver.arbiter")

VARIABLE = "GSERVER_INHERITS"
LEAVING = b"L"
MAX_PID_BYTES = 20
# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
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
        folder, given = working_folder(), sys.orig_argv[0]
        # The interpreter by its path: the name it was called by may mean another one by then.
        is_relative = os.sep in given and not os.path.isabs(given)
        executable = absolute(given, folder) if is_relative else sys.executable
        return cls((executable, *sys.orig_argv[1:]), folder)


class Succession:
    """The arbiter before this one and the one after it, as far as there are any.

    Closes: close() closes the lifelines, which tells a successor that this arbiter is gone.
    """

    def __init__(self, command: Command, inheritance: Inheritance) -> None:
        self._command = command
        self.inherited = inheritance.listeners
        self._from_predecessor = inheritance.lifeline
        self._to_successor: int | None = None
        self._midwife: int | None = None  # the pid of the successor's parent
        #: The pid of the arbiter after this one, while there is one.
        self.successor: int | None = None
        #: Whether the service is this arbiter's: its predecessor, if there was one, is leaving or gone.
        self.is_in_charge = inheritance.lifeline is None

    @property
    def has_predecessor(self) -> bool:
        return self._from_predecessor is not None

    @property
    def is_under_way(self) -> bool:
        """Whether another arbiter serves from the same listeners, and will when this one has ended."""
        return not self.is_in_charge or self.successor is not None

    def fileno(self) -> int:
        """For select, while there is a predecessor: readable when it is leaving, and when it is gone."""
        assert self._from_predecessor is not None
        return self._from_predecessor

    def is_predecessor_gone(self) -> bool:
        """After fileno() became readable: False if it is only leaving. Either way this arbiter is in charge now."""
        self.is_in_charge = True
        return not os.read(self.fileno(), len(LEAVING))

    def predecessor_ended(self) -> None:
        assert self._from_predecessor is not None
        os.close(self._from_predecessor)
        self._from_predecessor = None
        self.is_in_charge = True

    def begin(self, signals: SignalQueue, listeners: Descriptors, activated: Sequence[Bind]) -> int:
        """Start the new arbiter; return the pid of the child that ends when it does, 0 if there can be none."""
        try:
            midwife = self._fork(signals, listeners, activated)
        except OSError as error:
            log.error("Cannot start a new arbiter: %s", error)
            return 0
        log.info("Started a new arbiter (pid: %d); TERM to %d when it serves", self.successor, os.getpid())
        return midwife

    def _fork(self, signals: SignalQueue, listeners: Descriptors, activated: Sequence[Bind]) -> int:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            lifeline, self._to_successor = os.pipe()
            try:
                with signals.held():
                    midwife = fork_child(
                        functools.partial(self._deliver, signals, theirs, lifeline, listeners, activated)
                    )
            except OSError:
                self.close()
                raise
            finally:
                os.close(lifeline)
            theirs.close()
            # One that could not fork ends at once, and stands for its child until then.
            self._midwife, self.successor = midwife, int(ours.recv(MAX_PID_BYTES) or midwife)
        return midwife

    def lost(self, pid: int) -> bool:
        """A child has ended: whether the successor has, of which there is none then."""
        if pid != (self._midwife or self.successor):
            return False
        self._midwife = self.successor = None
        self.close()
        return True

    def hand_over(self, notifier: Notifier, pidfile: Pidfile, end: Callable[[int], None]) -> None:
        """Before this arbiter ends, leave the service to the successor, if there is one: systemd would end it, too.

        `end`: kills a child and waits for it.
        """
        if self.successor is None:
            return
        if self._midwife is not None:
            _prctl(_PR_SET_CHILD_SUBREAPER, 0)  # with preload_app this process is one itself
            end(self._midwife)
            self._midwife = None
        notifier.hand_over(self.successor)
        pidfile.hand_over(self.successor)
        if self._to_successor is not None:
            with contextlib.suppress(OSError):  # it has ended
                os.write(self._to_successor, LEAVING)

    def close(self) -> None:
        if self._to_successor is not None:
            os.close(self._to_successor)
            self._to_successor = None

    def leave_to_worker(self) -> None:
        """In a worker: both lifelines are the arbiter's."""
        self.close()
        if self._from_predecessor is not None:
            os.close(self._from_predecessor)

    def _deliver(
        self,
        signals: SignalQueue,
        report: socket.socket,
        lifeline: int,
        listeners: Descriptors,
        activated: Sequence[Bind],
    ) -> int:
        """In the midwife, with the signals of an arbiter held: fork the successor, report its pid, end when it does."""
        arbiter = os.getppid()
        pid = fork_child(functools.partial(self._become_successor, signals, lifeline, listeners, activated))
        report.sendall(b"%d" % pid)
        _close_all_but_standard()  # workers wait for the end of the arbiter's own descriptors
        set_title("upgrade", str(pid))
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != arbiter:
            return 1
        _, ended = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(ended)
        return code if code >= 0 else 128 - code

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
            enter(self._command.folder)
            os.execve(self._command.words[0], self._command.words, os.environ)
        except (OSError, ConfigError) as error:
            log.error("Cannot execute a new arbiter: %s", error)
        return 1


def _close_all_but_standard() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


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
