"""Binary upgrade (USR2): start a new arbiter on the same sockets, as nginx and gunicorn do.

The old arbiter executes its own command again. The new one inherits the listeners and the read end of a pipe, the
lifeline. A byte on the lifeline means that the old arbiter is stopping: the new one is in charge while the old one
drains. End-of-file means that the old arbiter has ended. Through another pipe the new arbiter reports how its start
goes (see upgrade_reports.py). An environment variable holds the numbers of the descriptors.

At a stop, systemd waits for the main process only if that is its own child. Therefore the old arbiter is not the parent
of the new one. Between them is a launcher process. It exits when the new arbiter exits, with the same status, or when
the old arbiter stops. In the latter case systemd, which adopts orphans, becomes the parent of the new arbiter while the
old one still runs.
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
from dataclasses import dataclass, field, replace
from typing import Any

from gserver.arbiter.signals import SignalQueue
from gserver.arbiter.upgrade_reports import UpgradeReports, send_report
from gserver.config.addresses import Bind, FdBind, parse_bind
from gserver.config.working_directory import absolute, enter, working_folder
from gserver.errors import ConfigError
from gserver.process.child import fork_child
from gserver.process.pidfile import Pidfile
from gserver.process.proctitle import set_title
from gserver.process.systemd import Notifier

__all__ = ["BinaryUpgrade", "Command", "Inheritance", "take_inheritance"]

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
    """What a new arbiter inherits from the old one."""

    listeners: Descriptors = field(default_factory=dict)
    lifeline: int | None = None
    activated: tuple[FdBind, ...] = ()  # of the listeners, those that systemd passed to the first arbiter
    metrics: Descriptors = field(default_factory=dict)  # the listener of metrics_bind
    reports: int | None = None  # the pipe for reports about the start of this arbiter

    def report(self, **fields: Any) -> None:
        """Report to the old arbiter, if there is one that reads it: see gserver.arbiter.upgrade_reports."""
        if self.reports is not None:
            send_report(self.reports, **fields)


@dataclass(frozen=True)
class Command:
    """The command and folder that started this process. Made before the process changes its folder."""

    arguments: tuple[str, ...]
    folder: str

    @classmethod
    def of_this_process(cls) -> Command:
        folder, given = working_folder(), sys.orig_argv[0]
        # The interpreter by its path: by the time of the upgrade, its name may lead to another one.
        is_relative = os.sep in given and not os.path.isabs(given)
        executable = absolute(given, folder) if is_relative else sys.executable
        return cls((executable, *sys.orig_argv[1:]), folder)


class BinaryUpgrade:
    """The links from this arbiter to the old one that started it, and to the new one that it has started.

    Closes: close() closes the lifeline to the new arbiter, which then reads that this one has ended.
    """

    def __init__(self, command: Command, inheritance: Inheritance) -> None:
        self._command = command
        self.inherited, self.inherited_metrics = inheritance.listeners, inheritance.metrics
        self._inheritance = inheritance
        self._from_old_arbiter = inheritance.lifeline
        self._to_new_arbiter: int | None = None
        self._launcher: int | None = None  # the pid of the launcher
        self._reports: UpgradeReports | None = None  # of the new arbiter that was started last
        self.report = inheritance.report
        #: The pid of the new arbiter, while there is one.
        self.new_arbiter: int | None = None
        #: Whether this arbiter owns the pid file: there is no old arbiter, or that is stopping or has ended.
        self.is_in_charge = inheritance.lifeline is None

    @property
    def has_old_arbiter(self) -> bool:
        return self._from_old_arbiter is not None

    @property
    def is_under_way(self) -> bool:
        """Whether another arbiter serves from the same listeners."""
        return not self.is_in_charge or self.new_arbiter is not None

    @property
    def last(self) -> dict[str, Any] | None:
        """The state of the new arbiter that was started last: see UpgradeReports.state(). None: there was none."""
        return None if self._reports is None else self._reports.state()

    def fileno(self) -> int:
        """The lifeline from the old arbiter, for select: readable when that is stopping, and when it has ended."""
        assert self._from_old_arbiter is not None
        return self._from_old_arbiter

    def is_old_arbiter_gone(self) -> bool:
        """Read the lifeline after it became readable: True if the old arbiter has ended, False if it is stopping.

        In both cases this arbiter is in charge now.
        """
        self.is_in_charge = True
        return not os.read(self.fileno(), len(LEAVING))

    def old_arbiter_ended(self) -> None:
        assert self._from_old_arbiter is not None
        os.close(self._from_old_arbiter)
        self._from_old_arbiter = None
        self.is_in_charge = True

    def start(
        self,
        signals: SignalQueue,
        listeners: Descriptors,
        activated: Sequence[FdBind],
        metrics: Descriptors | None = None,
    ) -> int:
        """Start the new arbiter; return the pid of the launcher, which exits with it. 0 if the fork failed.

        Args:
            metrics: the listener of metrics_bind.
        """
        try:
            launcher = self._fork(signals, Inheritance(listeners, None, tuple(activated), metrics or {}))
        except OSError as error:
            log.error("Cannot start a new arbiter: %s", error)
            return 0
        log.info("Started a new arbiter (pid: %d); send TERM to %d when it serves", self.new_arbiter, os.getpid())
        return launcher

    def _fork(self, signals: SignalQueue, passed: Inheritance) -> int:
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.ExitStack() as passed_on:
            try:
                lifeline, self._to_new_arbiter = os.pipe()
                passed_on.callback(os.close, lifeline)
                reader, reports = os.pipe()
                passed_on.callback(os.close, reports)
                self._reports = UpgradeReports(reader)
                passed = replace(passed, lifeline=lifeline, reports=reports)
                with signals.held():
                    launcher = fork_child(functools.partial(self._run_launcher, signals, theirs, passed))
            except OSError:
                self.close()
                self._reports = None
                raise
            theirs.close()
            # A launcher that could not fork exits at once. Until then its pid stands for the new arbiter.
            self._launcher, self.new_arbiter = launcher, int(ours.recv(MAX_PID_BYTES) or launcher)
            self._reports.pid = self.new_arbiter
        return launcher

    def lost(self, pid: int, how: str = "") -> bool:
        """A child has ended: return whether the new arbiter has ended with it, and if so forget it.

        Args:
            how: how it has ended, if it has not reported a reason itself.
        """
        if pid != (self._launcher or self.new_arbiter):
            return False
        if self._reports is not None:
            self._reports.ended(how)
        self._launcher = self.new_arbiter = None
        self.close()
        return True

    def cancel(self) -> None:
        """Stop the new arbiter: QUIT the first time, later KILL, because it may be unable to act on signals."""
        if self.new_arbiter is not None and self._reports is not None:
            number = signal.SIGKILL if self._reports.is_cancelled else signal.SIGQUIT
            self._reports.is_cancelled = True
            with contextlib.suppress(ProcessLookupError):  # it is not reaped before its launcher is
                os.kill(self.new_arbiter, number)

    def hand_over(self, notifier: Notifier, pidfile: Pidfile, end: Callable[[int], None]) -> None:
        """Leave the service to the new arbiter, if there is one, before this one stops.

        Otherwise systemd would stop the new arbiter as well. `end` kills a child and waits for it.
        """
        if self.new_arbiter is None:
            return
        if self._launcher is not None:
            _prctl(_PR_SET_CHILD_SUBREAPER, 0)  # else this process would adopt the new arbiter
            end(self._launcher)
            self._launcher = None
        notifier.hand_over(self.new_arbiter)
        pidfile.hand_over(self.new_arbiter)
        if self._to_new_arbiter is not None:
            with contextlib.suppress(OSError):  # the new arbiter has ended
                os.write(self._to_new_arbiter, LEAVING)

    def close(self) -> None:
        if self._to_new_arbiter is not None:
            os.close(self._to_new_arbiter)
            self._to_new_arbiter = None
        if self._reports is not None:
            self._reports.close()

    def leave_to_child(self) -> None:
        """In a child process: close both lifelines, and the pipes for reports."""
        self.close()
        if self._inheritance.reports is not None:
            os.close(self._inheritance.reports)
        if self._from_old_arbiter is not None:
            os.close(self._from_old_arbiter)

    def _run_launcher(self, signals: SignalQueue, report: socket.socket, passed: Inheritance) -> int:
        """In the launcher, with signals held: fork the new arbiter, report its pid, and exit when it exits."""
        arbiter = os.getppid()
        pid = fork_child(functools.partial(self._become_new_arbiter, signals, passed))
        report.sendall(b"%d" % pid)
        _close_all_but_standard()  # workers wait for end-of-file on the arbiter's descriptors
        set_title("upgrade", str(pid))
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != arbiter:
            return 1
        _, ended = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(ended)
        return code if code >= 0 else 128 - code

    def _become_new_arbiter(self, signals: SignalQueue, passed: Inheritance) -> int:
        """In the child of the launcher: execute the command, or return an exit status."""
        signals.leave_to_child()
        try:
            _unignore_signals()
            groups = [*passed.listeners.values(), *passed.metrics.values()]
            assert passed.lifeline is not None
            assert passed.reports is not None
            for descriptor in (passed.lifeline, passed.reports, *(each for group in groups for each in group)):
                os.set_inheritable(descriptor, True)
            value = {
                "listeners": [[str(bind), list(descriptors)] for bind, descriptors in passed.listeners.items()],
                "lifeline": passed.lifeline,
                "reports": passed.reports,
                "activated": [str(bind) for bind in passed.activated],
                "names": {str(bind): bind.name for bind in passed.activated},
                "metrics": [[str(bind), list(descriptors)] for bind, descriptors in passed.metrics.items()],
            }
            os.environ[VARIABLE] = json.dumps(value)
            os.environ.pop("WATCHDOG_PID", None)  # it names the old arbiter; the watchdog is for the service
            enter(self._command.folder)
            os.execve(self._command.arguments[0], self._command.arguments, os.environ)
        except (OSError, ConfigError) as error:
            log.error("Cannot execute a new arbiter: %s", error)
        return 1


def _close_all_but_standard() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _unignore_signals() -> None:
    """Reset ignored signals: the new program would inherit that (signal(7)). Python ignores SIGPIPE again by itself."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def take_inheritance(environ: MutableMapping[str, str]) -> Inheritance:
    """Return what the old arbiter has passed to this process, and remove the variable from the environment."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return Inheritance()
    value = json.loads(text)
    reports = value.get("reports")  # an arbiter of an earlier version passes none
    for descriptor in (value["lifeline"], reports):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    if reports is not None:
        os.set_blocking(reports, False)
    return Inheritance(
        {parse_bind(bind): descriptors for bind, descriptors in value["listeners"]},
        value["lifeline"],
        tuple(_passed_socket(bind, value.get("names", {}).get(bind, "")) for bind in value["activated"]),
        # An arbiter of a version without metrics passes none.
        {parse_bind(bind): descriptors for bind, descriptors in value.get("metrics", ())},
        reports,
    )


def _passed_socket(text: str, name: str) -> FdBind:
    """A socket that systemd passed to the first arbiter; one of an earlier version passes no names on."""
    bind = parse_bind(text)
    assert isinstance(bind, FdBind)
    return replace(bind, name=name)
