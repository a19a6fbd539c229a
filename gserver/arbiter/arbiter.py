"""The arbiter: binds, forks workers, keeps their number, replaces them, and ends them orderly. It never serves.

One loop, which sleeps until a signal, a word from a worker or a deadline; without any of them it wakes up once in a
worker's timeout. What is to be done is decided in supervision.py, which is pure; this does it, and owns the processes'
surroundings: listeners, pid file, log files, the service manager, a successor.

Closes: run() closes the listeners, the channels and the signal queue, and leaves no worker behind.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from typing import TYPE_CHECKING, Any

from gserver.arbiter.binary_upgrade import Succession
from gserver.arbiter.channel import BORN, DRAIN, DRAIN_AT_ONCE, LEFT, LISTEN, NOT_ACCEPTING, PRELOADED, READY, RECYCLE
from gserver.arbiter.child_processes import Death, Processes
from gserver.arbiter.listeners import Listeners
from gserver.arbiter.orphan_processes import Leftovers
from gserver.arbiter.preload import adopt_orphans
from gserver.arbiter.reload_requests import Askers
from gserver.arbiter.reloader import CodeWatch, Watched
from gserver.arbiter.signals import Request, SignalQueue
from gserver.arbiter.stats_socket import StatsSocket
from gserver.arbiter.supervision import (
    Action,
    Child,
    Children,
    Drain,
    Go,
    KillStage,
    ReloadDone,
    ReloadFailed,
    Spawn,
    Stage,
    Strike,
)
from gserver.arbiter.supervision_policy import AT_ONCE_S, QUICKLY_S, patience_of, policy_of
from gserver.arbiter.worker_processes import EXIT_CANNOT_START, Crew, RunWorker
from gserver.arbiter.worker_spawning import Births
from gserver.config.settings import MAX_WORKERS, Settings
from gserver.config.sources import Configuration
from gserver.config.working_directory import absolute, enter
from gserver.counters import Counters
from gserver.errors import ConfigError
from gserver.process import logs
from gserver.process.daemon import Daemon, is_in_foreground
from gserver.process.open_files import raise_open_files_limit
from gserver.process.pidfile import SECOND, Pidfile
from gserver.process.systemd import Notifier
from gserver.user_errors import described as told

if TYPE_CHECKING:
    from gserver.tls.contexts import Tls

__all__ = ["Arbiter"]

log = logging.getLogger("gserver.arbiter")

_NEVER_SERVED = "Workers end before they serve"


class Arbiter:
    """Supervise workers until told to stop.

    Args:
        configuration: read again at every reload. settings: what it said at the start.
        run_worker, run_mold: the children's part.
        succession: the arbiter before this one, if there is one, and the one after it.
        daemon: whom to tell that the server is ready.
    """

    def __init__(
        self,
        configuration: Configuration,
        settings: Settings,
        run_worker: RunWorker,
        run_mold: RunWorker,
        succession: Succession,
        daemon: Daemon | None = None,
    ) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.log = log
        self._configuration = configuration
        self._tls = certificates_of(settings)
        self._before_reload = settings, self._tls  # those to go back to if a reload fails
        self._succession = succession
        self._daemon = daemon
        self._hooks = settings.hooks
        self._age = 0
        self._is_ready = False  # every worker was serving once
        self._exit_status = 0
        self._children = Children(settings.workers, policy_of(settings, settings))
        self._listeners = Listeners(settings.backlog, settings.reuse_port, (settings.user, settings.group))
        self._pidfile = Pidfile(settings.pidfile)
        self._askers = Askers()
        self._notifier = Notifier(os.environ, self.pid, succession.is_in_charge)
        self._selector = selectors.DefaultSelector()
        self._leftovers = Leftovers(self._selector)
        self._stats = StatsSocket(settings.stats_socket, self._selector)
        self._run_worker, self._run_mold = run_worker, run_mold

    def run(self) -> int:
        """Serve until told to stop; return the exit status. ConfigError if it cannot begin."""
        self._call("on_starting", self)
        self._listeners.adopt(self._succession.inherited)
        self._listeners.open(self.settings.bind)
        self._listeners.keep(self.settings.bind)
        self._signals = SignalQueue()
        self._processes = Processes(self._signals)
        try:
            self._begin()
            while not self._is_over():
                self._wait()
                self._act()
        finally:
            self._close()
        self._call("on_exit", self)
        totals = Counters(self._crew.scoreboard.totals())
        log.info("Totals: messages %d, errors %d, %s", totals.messages, totals.errors, totals)
        log.info("Stopped")
        self._signals.retire()
        return self._exit_status

    def _is_over(self) -> bool:
        if not self._children.is_stopping or self._children:
            return False
        return not self._leftovers.sweep(time.monotonic(), self._processes.__contains__)

    def _begin(self) -> None:
        suffix = SECOND if self._succession.has_predecessor else ""
        self._pidfile.write(suffix)
        self._selector.register(self._signals, selectors.EVENT_READ)
        if self._succession.has_predecessor:
            self._selector.register(self._succession, selectors.EVENT_READ)
        self._crew = Crew(
            self._run_worker,
            self._run_mold,
            self._selector,
            self._signals,
            self._processes,
            self._bury,
            self._forget_in_child,
        )
        self._births = Births(self._children, self._crew, self._hear)
        self._stats.open(self._crew.scoreboard, self._children, suffix)
        log.info("Listening at: %s (%d)", self._listeners.describe(), self.pid)
        raise_open_files_limit(self.settings.worker_connections)
        adopt_orphans(is_needed=self.settings.preload_app)
        self._code_watch = CodeWatch(self._crew.fork_helper, self._processes)
        if self.settings.reload:
            patterns = tuple(map(absolute, self.settings.reload_extra_files))
            watched = Watched(self.settings.chdir, self._configuration.file, patterns)
            self._code_watch.start(watched, self.settings.reload_engine)
        self._act()

    # One turn of the loop

    def _wait(self) -> None:
        now = time.monotonic()
        deadlines = self._crew.deadlines()
        times = [
            self._children.wakes_at(now, deadlines),
            self._notifier.pings_at,
            self._leftovers.wakes_at,
            logs.retries_at(now),
        ]
        wakes_at = min((each for each in times if each is not None), default=None)
        for key, _ in self._selector.select(None if wakes_at is None else max(0.0, wakes_at - now)):
            if key.fileobj is self._signals:
                for request in self._signals.read():
                    self._obey(request)
            elif key.fileobj is self._succession:
                self._take_over()
            elif callable(key.data):
                key.data()
            else:
                self._hear(key.data)
        self._notifier.ping(time.monotonic())
        self._leftovers.kill_overdue(time.monotonic())
        logs.retry()

    def _hear(self, pid: int) -> None:
        for message in self._crew.hear(pid):
            if message.word == BORN:
                pid = self._births.born(pid, message)
            elif message.word == READY:
                log.info("Worker ready (pid: %d)", pid)
                self._children.became_ready(pid, time.monotonic())
            elif message.word == RECYCLE:
                self._children.is_worn(pid)
            elif message.word == NOT_ACCEPTING:
                self._children.is_deaf(pid, time.monotonic())
            elif message.word == LEFT:
                self._leftovers.take_reported(message.descriptors, time.monotonic())
            elif message.word == PRELOADED:
                self._births.molded(pid, self, self.settings, self._tls)
        if pid < 0:
            self._births.look_after(pid)

    def _act(self) -> None:
        """Do what the book says until it has nothing more to say: what is done may change what is to be done."""
        while actions := self._decide():
            for action in actions:
                self._do(action)
        if not self._is_ready and self._children.is_complete and not self._children.is_stopping:
            self._became_ready()

    def _decide(self) -> list[Action]:
        self._children.is_molding = self.settings.preload_app and not self._crew.molds.is_ready
        return self._children.decide(time.monotonic(), self._crew.deadlines())

    def _do(self, action: Action) -> None:
        if isinstance(action, Spawn):
            self._spawn()
        elif isinstance(action, Go):
            has_heir = self._succession.successor is not None
            lanes = self._listeners.lanes_for(action.child.pid, self.settings.bind, self._children.target, has_heir)
            self._crew.tell(action.child.pid, LISTEN, lanes=lanes)
        elif isinstance(action, Drain):
            self._drain(action.child)
        elif isinstance(action, Strike):
            self._strike(action.child, action.stroke)
        elif isinstance(action, ReloadDone):
            self._reload_done()
        else:
            self._reload_failed(action)

    def _became_ready(self) -> None:
        self._is_ready = True
        self._call("when_ready", self)
        self._notifier.ready(f"{self._children.target} workers")
        if self._daemon is not None:
            self._daemon.ready()

    def _call(self, hook: str, *arguments: Any) -> None:
        """Call a hook; processes that it starts are its own affair."""
        if hook in self._hooks:
            with self._leftovers.sparing():
                self._hooks.call(hook, *arguments)

    # Workers

    def _spawn(self) -> None:
        self._age += 1
        child = Child(0, self._children.generation, time.monotonic(), age=self._age)
        self._call("pre_fork", self, child)
        self._births.spawn(self, self.settings, self._age, self._tls)

    def _drain(self, child: Child) -> None:
        """A worker that is not needed any more: what it accepts from goes to the others, its connections end."""
        others = [each.pid for each in self._children if each.stage is Stage.SERVING]
        heir = self._listeners.hand_over(child.pid, others, self.settings.bind)
        if heir is not None:
            self._crew.tell(heir[0], LISTEN, lanes=heir[1])
        # Addresses that a reload has given up end with the last worker that serves them.
        given_up = [bind for bind in self._before_reload[0].bind if bind not in self.settings.bind]
        if all(each.generation == self._children.generation for each in self._children if each.pid in others):
            self._listeners.keep(self.settings.bind)
        self._crew.tell(child.pid, DRAIN, [str(bind) for bind in given_up])

    def _strike(self, child: Child, stroke: KillStage) -> None:
        if child.is_unborn:
            self._births.overdue(child) if stroke is KillStage.DUMP else self._births.kill(child)
            return
        if stroke is KillStage.DUMP:
            what = "did not become ready" if child.stage is Stage.BOOTING else "was not heard of"
            log.critical("Worker %s in time (pid: %d)", what, child.pid)
        elif child.stage is not Stage.DRAINING or self._children.is_stopping:
            log.warning("Worker gets %s (pid: %d)", stroke.name, child.pid)
        self._crew.strike(child.pid, stroke)

    def _reap(self) -> None:
        self._processes.reap(newborn=self._births.hear)

    def _bury(self, death: Death) -> None:
        """A worker has ended, or a mold in the place of one."""
        self._hear(death.pid)  # one that was ready, and said so last, has proven that the application loads
        child = self._children.exited(death.pid, time.monotonic())
        self._listeners.gone(death.pid)
        self._leftovers.take(self._crew.gone(death.pid), time.monotonic(), signal.SIGTERM)
        if child is None:
            return
        asked = child.stage is Stage.DRAINING or child.is_deaf
        log.log(logging.INFO if asked else logging.ERROR, "%s", death)
        self._call("child_exit", self, child)
        if self._children.cannot_start and not self._children.is_stopping:
            self._cannot_start()
        elif child.stage is not Stage.DRAINING and self._children.pause_s:
            early = "A worker ended as soon as it served" if child.stage is Stage.SERVING else _NEVER_SERVED
            log.error("%s: the next one is forked in %g s", early, self._children.pause_s)

    def _cannot_start(self) -> None:
        if self.settings.reload:
            log.error("The application cannot be served; waiting for a change")
            self._children.wait_for_reload()
            return
        log.error("The application cannot be served; stopping")
        self._exit_status = EXIT_CANNOT_START
        self._stop(Request.QUIT)

    # Requests

    def _obey(self, request: Request) -> None:
        if request is Request.REAP:
            self._reap()
        elif request is Request.REOPEN:
            self._reopen_logs()
        elif request in (Request.STOP, Request.QUIT):
            self._stop(request)
        elif not self._children.is_stopping:
            self._change(request)

    def _change(self, request: Request) -> None:
        if request is Request.RELOAD:
            self._reload()
        elif request is Request.MORE:
            self._set_target(min(MAX_WORKERS, self._children.target + 1))
        elif request is Request.FEWER:
            self._set_target(max(1, self._children.target - 1))
        elif request is Request.DISMISS:
            self._dismiss()
        else:
            self._start_successor()

    def _reopen_logs(self) -> None:
        logs.reopen()
        self._crew.reopen_logs()

    def _set_target(self, target: int) -> None:
        before = self._children.target
        self._children.resize(target)
        if before != target:
            log.info("Workers: %d instead of %d", target, before)
            self._call("nworkers_changed", self, target, before)

    def _dismiss(self) -> None:
        if is_in_foreground():
            log.debug("WINCH comes from the terminal; ignored")
        else:
            self._set_target(0)

    # Reloading

    def _reload(self) -> None:
        self._act()  # a reload may have failed a moment ago, and this one goes back to where that one does
        log.info("Reloading")
        self._askers.collect(self._pidfile.path)
        self._notifier.reloading()
        if not self._children.is_reloading:
            self._before_reload = self.settings, self._tls
        try:
            with self._leftovers.sparing():
                settings, fixed = self._configuration.read().with_fixed_of(self.settings)
            enter(settings.chdir)
            tls = certificates_of(settings)
            self._listeners.open(settings.bind, patient=False)
            logs.configure(settings)  # before there are new workers, who log where the arbiter does
        except ConfigError as error:
            self._reload_failed(ReloadFailed(str(error)))
            return
        except Exception as error:  # whatever it is, the workers that serve go on
            log.exception("A reload cannot begin")
            self._reload_failed(ReloadFailed(told(error)))
            return
        for name in fixed:
            log.warning("Setting %s cannot be changed by a reload: the next start will", name)
        self._use(settings, tls)
        raise_open_files_limit(self.settings.worker_connections)
        self._call("on_reload", self)
        self._crew.molds.begin_reload()
        self._children.begin_reload(settings.workers, time.monotonic())

    def _use(self, settings: Settings, tls: Tls | None) -> None:
        self.settings, self._tls = settings, tls
        self._hooks = settings.hooks
        self._children.policy = policy_of(settings, self._before_reload[0])

    def _reload_done(self) -> None:
        self._listeners.keep(self.settings.bind)
        self._crew.molds.end_reload(succeeded=True)
        self._before_reload = self.settings, self._tls
        self._pidfile.follow()
        self._stats.follow()
        log.info("Reloaded; listening at: %s", self._listeners.describe())
        self._answer(None)

    def _reload_failed(self, failed: ReloadFailed) -> None:
        if not self._children.is_reloading:
            self._crew.molds.end_reload(succeeded=False)
            self._use(*self._before_reload)
            self._listeners.keep(self.settings.bind)
        self._go_back()
        log.error("Reload failed, the workers from before go on: %s", failed.why)
        self._answer(failed.why)

    def _go_back(self) -> None:
        try:
            enter(self.settings.chdir)
            logs.configure(self.settings)
        except ConfigError as error:
            log.error("%s", error)

    def _answer(self, failure: str | None) -> None:
        self._askers.answer(failure)
        if self._is_ready and not self._children.is_stopping:
            self._notifier.ready("reloaded" if failure is None else f"reload failed: {failure}")

    # Predecessor and successor: USR2

    def _start_successor(self) -> None:
        if self._succession.is_under_way:
            log.warning("An upgrade is under way already")
            return
        self._call("pre_exec", self)
        midwife = self._succession.begin(self._signals, self._listeners.descriptors, self._configuration.sockets)
        if midwife:
            self._processes.add(midwife, self._successor_ended)
            for pid in (midwife, self._succession.successor or midwife):
                self._leftovers.spare(pid)

    def _successor_ended(self, death: Death) -> None:
        self._succession.lost(death.pid)
        log.error("The new arbiter ended with %s; this one goes on", death.how)

    def _take_over(self) -> None:
        """The arbiter before this one is leaving, or gone: what there is but once is this one's."""
        if self._succession.is_predecessor_gone():
            self._selector.unregister(self._succession)
            self._succession.predecessor_ended()
            log.info("The arbiter before this one has ended")
        self._reopen_logs()  # a rotation meanwhile has signalled the process of the pid file, which was that one
        self._pidfile.rename(self.settings.pidfile)
        self._stats.rename(self.settings.stats_socket)
        self._notifier.took_over(self.pid)

    # Stopping

    def _stop(self, request: Request) -> None:
        is_at_once = self._children.is_stopping and request is Request.QUIT
        if self._children.is_stopping and not is_at_once:
            return
        now = time.monotonic()
        if is_at_once or self._exit_status:
            log.info("Stopping: now")
            for child in self._children:
                self._processes.signal(child.pid, signal.SIGQUIT)
            self._children.stop(now, AT_ONCE_S)
            return
        quick = request is Request.QUIT
        log.info("Stopping: replying to what was received")
        patience = QUICKLY_S if quick else patience_of(self.settings)
        self._succession.hand_over(self._notifier, self._pidfile, self._processes.end)
        self._notifier.stopping(patience)
        addresses = [] if self._succession.is_under_way else [str(bind) for bind in self.settings.bind]
        # The workers still have the listeners, and accept what the kernel has queued; nobody new gets in after them.
        self._close_listeners()
        self._crew.molds.dismiss_all()
        self._code_watch.stop()
        for child in self._children:
            if child.stage in (Stage.READY, Stage.SERVING):
                self._crew.tell(child.pid, DRAIN_AT_ONCE if quick else DRAIN, addresses)
            elif child.stage is not Stage.DRAINING:
                self._births.kill(child)
        self._children.stop(now, patience)

    def _close_listeners(self) -> None:
        if self._succession.is_under_way:
            self._listeners.leave_to_successor()
        else:
            self._listeners.close()

    def _forget_in_child(self) -> None:
        """In a worker: what only the arbiter may hold on to."""
        self._selector.close()
        self._listeners.leave_to_successor()
        self._succession.leave_to_worker()
        self._stats.leave_to_arbiter()
        self._leftovers.leave_to_child()
        if self._daemon is not None:
            self._daemon.leave_to_child()

    def _close(self) -> None:
        # Only an exception in the loop itself leaves a successor, and workers, until here.
        self._succession.hand_over(self._notifier, self._pidfile, self._processes.end)
        self._processes.kill_all()
        self._close_listeners()
        self._pidfile.remove()
        self._stats.close()
        self._askers.answer("the server has stopped")
        if hasattr(self, "_crew"):
            self._crew.close()
        self._leftovers.close()
        self._selector.close()
        self._succession.close()


def certificates_of(settings: Settings) -> Tls | None:
    """Made before workers are forked, who then share the keys of session tickets, and need not be able to read them."""
    config = settings.tls
    if config is None:
        return None
    from gserver.tls.contexts import Tls  # what imports ssl early has gevent warn of it, with reason

    return Tls(config)
