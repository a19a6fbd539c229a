"""The arbiter: binds the listeners, forks the workers, replaces and stops them. It never serves a connection.

One loop sleeps until a signal, a message from a worker, or a deadline. On an idle server it wakes up once per worker
timeout. supervision.py, which is pure, decides what to do; this module does it. It also owns everything around the
workers: listeners, pid file, log files, the service manager's notifications, and the upgrade to a new arbiter.

Closes: run() closes the listeners, the channels and the signal queue. No worker is left when it returns.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Mapping
from typing import Any

import gserver
from gserver.arbiter.administration import Administration
from gserver.arbiter.binary_upgrade import BinaryUpgrade
from gserver.arbiter.bus_links import BusLinks
from gserver.arbiter.certificates import TlsOfListeners, certificates_of
from gserver.arbiter.channel import (
    ANSWER,
    BORN,
    DRAIN,
    DRAIN_AT_ONCE,
    FAILED,
    LEFT,
    LINKS,
    LISTEN,
    NOT_ACCEPTING,
    PRELOADED,
    READY,
    RECYCLE,
    STACKS,
)
from gserver.arbiter.child_processes import Death, Processes
from gserver.arbiter.listeners import Listeners
from gserver.arbiter.live_reload import LiveReload
from gserver.arbiter.metrics_process import MetricsProcess, RunMetrics, check_metrics
from gserver.arbiter.orphan_processes import OrphanProcesses
from gserver.arbiter.preload import adopt_orphans
from gserver.arbiter.reload_requests import FULL, LIVE, ReloadRequests
from gserver.arbiter.reloader import Reloader, WatchedFiles
from gserver.arbiter.restart_causes import restart_cause
from gserver.arbiter.scoreboard import Scoreboard
from gserver.arbiter.signals import Request, SignalQueue
from gserver.arbiter.stats_socket import StatsSocket
from gserver.arbiter.supervision import (
    Action,
    Child,
    Drain,
    Go,
    Kill,
    KillStage,
    ReloadDone,
    ReloadFailed,
    Spawn,
    Stage,
    Supervision,
)
from gserver.arbiter.worker_processes import EXIT_CANNOT_START, RunWorker, WorkerProcesses
from gserver.arbiter.worker_questions import WorkerQuestions
from gserver.arbiter.worker_spawning import Spawner
from gserver.arbiter.worker_timeouts import FIRST_QUIT_S, SECOND_QUIT_S, policy_of
from gserver.config.live_settings import changed_names, plain_values, reason_for_new_workers, with_values
from gserver.config.settings import MAX_WORKERS, Settings
from gserver.config.sources import Configuration
from gserver.config.working_directory import absolute, enter
from gserver.control.control_socket import ControlSocket
from gserver.counters import Counters
from gserver.errors import ConfigError
from gserver.process import logs
from gserver.process.daemon import Daemon, is_in_foreground
from gserver.process.open_files import raise_open_files_limit
from gserver.process.pidfile import SECOND, Pidfile
from gserver.process.systemd import Notifier
from gserver.user_errors import described

__all__ = ["Arbiter"]

log = logging.getLogger("gserver.arbiter")

_NEVER_SERVED = "Workers end before they serve"


class Arbiter:
    """Supervises workers until a signal stops it.

    Args:
        configuration: read again at every reload.
        settings: the settings at the start.
        run_worker, run_preload_process, run_metrics: called in the child processes.
        upgrade: the links to the old arbiter, if there is one, and later to a new one.
        daemon: notified when the server is ready; None: the server runs in the foreground.
        name: of the server, for operators: that of its processes in ps.
    """

    def __init__(
        self,
        configuration: Configuration,
        settings: Settings,
        run_worker: RunWorker,
        run_preload_process: RunWorker,
        run_metrics: RunMetrics,
        upgrade: BinaryUpgrade,
        daemon: Daemon | None = None,
        name: str = "",
    ) -> None:
        self.settings = settings
        self.name = name
        self.pid = os.getpid()
        self.log = log
        self._configuration = configuration
        self._tls = certificates_of(settings)
        self._before_reload = settings, self._tls  # restored if a reload fails
        self._upgrade = upgrade
        self._daemon = daemon
        self._hooks = settings.hooks
        self._age = 0
        self._is_ready = False  # all workers have served at the same time once
        self._exit_status = 0
        self._drains_at: float | None = None  # the end of a shutdown delay that runs
        self._supervision = Supervision(settings.workers, policy_of(settings, settings))
        self._listeners = Listeners(settings.backlog, settings.reuse_port, (settings.user, settings.group))
        self._pidfile = Pidfile(settings.pidfile)
        self._reload_requests = ReloadRequests()
        self._notifier = Notifier(os.environ, self.pid, upgrade.is_in_charge)
        self._selector = selectors.DefaultSelector()
        self._orphans = OrphanProcesses(self._selector)
        self._stats = StatsSocket(settings.stats_socket, self._selector)
        self._questions = WorkerQuestions(self._ask_worker)
        self._administration = Administration(self, self._questions)
        self._live_reload = LiveReload(self._questions, self._supervision)
        self._awaiting = settings  # while _live_reload decides: the settings to apply then
        self._control = ControlSocket(self._selector, self._administration)
        self._metrics = MetricsProcess(run_metrics, (settings.user, settings.group))
        self._run_worker, self._run_preload_process = run_worker, run_preload_process

    def run(self) -> int:
        """Run the server until a signal stops it; return the exit status. ConfigError if it cannot start."""
        self._call_hook("on_starting", self)
        self._listeners.adopt(self._upgrade.inherited)
        self._listeners.open(self.settings.binds)
        self._listeners.keep(self.settings.binds)
        self._metrics.adopt(self._upgrade.inherited_metrics)
        self._metrics.open(self.settings.metrics_bind)
        self._signals = SignalQueue()
        self._processes = Processes(self._signals)
        try:
            self._begin()
            while not self._is_over():
                self._wait()
                self._act()
        finally:
            self._close()
        self._call_hook("on_exit", self)
        totals = Counters(self._workers.scoreboard.totals())
        log.info("Totals: messages %d, errors %d, %s", totals.messages, totals.errors, totals)
        log.info("Stopped")
        self._signals.retire()
        return self._exit_status

    def _is_over(self) -> bool:
        if not self._supervision.is_stopping or self._supervision:
            return False
        self._metrics.stop()
        return not self._orphans.sweep(time.monotonic(), self._processes.__contains__)

    def _begin(self) -> None:
        suffix = SECOND if self._upgrade.has_old_arbiter else ""
        self._pidfile.write(suffix)
        self._selector.register(self._signals, selectors.EVENT_READ)
        if self._upgrade.has_old_arbiter:
            self._selector.register(self._upgrade, selectors.EVENT_READ)
        self._workers = WorkerProcesses(
            self._run_worker,
            self._run_preload_process,
            self._selector,
            self._signals,
            self._processes,
            self._worker_ended,
            self._close_in_child,
        )
        self._bus_links = BusLinks(self._workers.pass_on)
        self._facts = self._workers.scoreboard.server
        self._facts.started_at = time.time()
        self._spawner = Spawner(self._supervision, self._workers, self._read_messages)
        self._stats.open(self._workers.scoreboard, self._supervision, suffix)
        self._open_control(suffix)
        self._upgrade.report(version=gserver.__version__, control_socket=self._control.path)
        log.info("Listening at: %s (%d)", self._listeners.describe(self.settings.all_listeners), self.pid)
        raise_open_files_limit(self.settings.worker_connections)
        adopt_orphans(is_needed=self.settings.preload_app)
        self._reloader = Reloader(self._workers.fork_helper, self._processes)
        if self.settings.reload:
            patterns = tuple(map(absolute, self.settings.reload_extra_files))
            watched = WatchedFiles(self.settings.chdir, self._configuration.file, patterns)
            self._reloader.start(watched, self.settings.reload_engine)
        self._act()
        self._metrics.prepare(self._workers.fork_helper, self._workers.scoreboard)
        if self._upgrade.is_in_charge:
            self._metrics.start(self.settings)

    def _open_control(self, suffix: str) -> None:
        if self.settings.control_socket_disable:
            return
        if self.settings.control_socket is None:
            self._control.open_default(os.environ, self.pid)
        else:
            self._control.open(self.settings.control_socket, suffix)

    # One iteration of the loop

    def _wait(self) -> None:
        now = time.monotonic()
        deadlines = self._workers.deadlines()
        times = [
            self._supervision.wakes_at(now, deadlines),
            self._notifier.pings_at,
            self._orphans.wakes_at,
            self._questions.wakes_at,
            self._control.wakes_at,
            self._drains_at,
            self._metrics.wakes_at,
            logs.retries_at(now),
        ]
        wakes_at = min((each for each in times if each is not None), default=None)
        for key, _ in self._selector.select(None if wakes_at is None else max(0.0, wakes_at - now)):
            if key.fileobj is self._signals:
                for request in self._signals.read():
                    self._handle_signal(request)
            elif key.fileobj is self._upgrade:
                self._take_over()
            elif callable(key.data):
                key.data()
            else:
                self._read_messages(key.data)
        if self._drains_at is not None and time.monotonic() >= self._drains_at:
            self._drain_all(is_quick=False)
        self._notifier.ping(time.monotonic())
        self._orphans.kill_overdue(time.monotonic())
        self._questions.expire(time.monotonic())
        self._control.wake(time.monotonic())
        self._metrics.restart_due()
        logs.retry()

    def _read_messages(self, pid: int) -> None:
        for message in self._workers.receive(pid):
            if message.kind == BORN:
                pid = self._spawner.forked(pid, message)
            elif message.kind == READY:
                log.info("Worker ready (pid: %d)", pid)
                self._supervision.became_ready(pid, time.monotonic())
            elif message.kind == RECYCLE:
                self._supervision.request_recycling(pid)
            elif message.kind == NOT_ACCEPTING:
                self._supervision.stopped_accepting(pid, time.monotonic())
            elif message.kind == LEFT:
                self._orphans.watch_reported(message.descriptors, time.monotonic())
            elif message.kind == ANSWER:
                self._questions.receive(pid, message.addresses[0])
            elif message.kind == STACKS:
                self._administration.stacks_written(pid, message.addresses[0])
            elif message.kind == LINKS:
                self._bus_links.join(pid)
            elif message.kind == FAILED:
                self._supervision.cannot_start_because(pid, message.addresses[0])
            elif message.kind == PRELOADED:
                self._spawner.preloaded(pid, self, self.settings, self._tls)
        if pid < 0:
            self._spawner.check_pending(pid)

    def _act(self) -> None:
        """Carry out the decided actions until there are none: an action may lead to further ones."""
        while actions := self._decide():
            for action in actions:
                self._do(action)
        self._facts.generation, self._facts.target = self._supervision.generation, self._supervision.target
        self._facts.is_stopping, self._facts.is_leaving = self._supervision.is_stopping, self._supervision.is_leaving
        self._facts.min_workers = self.settings.min_workers
        if not self._is_ready and self._supervision.is_complete and not self._is_going_away:
            self._became_ready()

    def _decide(self) -> list[Action]:
        self._supervision.is_preloading = self.settings.preload_app and not self._workers.preload.is_ready
        return self._supervision.decide(time.monotonic(), self._workers.deadlines())

    def _do(self, action: Action) -> None:
        if isinstance(action, Spawn):
            self._spawn()
        elif isinstance(action, Go):
            is_upgrading = self._upgrade.new_arbiter is not None
            lanes = self._listeners.lanes_for(
                action.child.pid, self.settings.binds, self._supervision.target, is_upgrading
            )
            self._administration.worker_will_serve(action.child.pid)  # first: it records its first connection too
            self._workers.send(action.child.pid, LISTEN, lanes=lanes)
        elif isinstance(action, Drain):
            self._drain(action.child)
        elif isinstance(action, Kill):
            self._kill(action.child, action.kill_stage)
        elif isinstance(action, ReloadDone):
            self._reload_done()
        else:
            self._reload_failed(action)

    def _became_ready(self) -> None:
        self._is_ready = True
        self._call_hook("when_ready", self)
        self._upgrade.report(is_ready=True)
        self._notifier.ready(f"{self._supervision.target} workers")
        if self._daemon is not None:
            self._daemon.ready()

    def _call_hook(self, hook: str, *arguments: Any) -> None:
        """Call a hook. Processes that it starts are not treated as orphans."""
        if hook in self._hooks:
            with self._orphans.exempting():
                self._hooks.call(hook, *arguments)

    # Workers

    def _spawn(self) -> None:
        self._age += 1
        child = Child(0, self._supervision.generation, time.monotonic(), age=self._age)
        self._call_hook("pre_fork", self, child)
        self._spawner.spawn(self, self.settings, self._age, self._tls)

    def _drain(self, child: Child) -> None:
        """Drain a worker: its listeners go to another worker, its connections end."""
        others = [each.pid for each in self._supervision if each.stage is Stage.SERVING]
        receiver = self._listeners.hand_over(child.pid, others, self.settings.binds)
        if receiver is not None:
            self._workers.send(receiver[0], LISTEN, lanes=receiver[1])
        # An address that a reload has removed is closed with the last worker that serves it.
        removed = [bind for bind in self._before_reload[0].binds if bind not in self.settings.binds]
        if all(each.generation == self._supervision.generation for each in self._supervision if each.pid in others):
            self._listeners.keep(self.settings.binds)
        self._workers.send(child.pid, DRAIN, [str(bind) for bind in removed])

    def _kill(self, child: Child, kill_stage: KillStage) -> None:
        if child.is_pending:
            self._spawner.overdue(child) if kill_stage is KillStage.DUMP else self._spawner.kill(child)
            return
        if kill_stage is KillStage.DUMP:
            log.critical("Worker %s (pid: %d)", _why_killed(child), child.pid)
        elif child.stage is not Stage.DRAINING or self._supervision.is_stopping:
            log.warning("Sending %s to worker (pid: %d)", kill_stage.name, child.pid)
        self._workers.kill(child.pid, kill_stage)

    def _reap(self) -> None:
        self._processes.reap(newborn=self._spawner.poll_pending)

    def _worker_ended(self, death: Death) -> None:
        """A worker has exited, or a preload process that was recorded as the first worker."""
        self._read_messages(death.pid)  # a last READY still shows that the application can be loaded
        self._questions.worker_ended(death.pid)
        self._bus_links.worker_ended(death.pid)
        child = self._supervision.exited(death.pid, time.monotonic())
        self._listeners.worker_ended(death.pid)
        self._orphans.watch(self._workers.remove(death.pid), time.monotonic(), signal.SIGTERM)
        if child is None:
            return
        cause = restart_cause(child, death.code)
        if cause is not None:
            self._facts.restarted(cause)
        is_requested = child.stage is Stage.DRAINING or child.has_stopped_accepting
        log.log(logging.INFO if is_requested else logging.ERROR, "%s", death)
        self._call_hook("child_exit", self, child)
        if self._supervision.cannot_start and not self._supervision.is_stopping:
            self._cannot_start(child.start_failure)
        elif child.stage is not Stage.DRAINING and self._supervision.pause_s:
            early = "A worker ended within a second of serving" if child.stage is Stage.SERVING else _NEVER_SERVED
            log.error("%s: the next fork is in %g s", early, self._supervision.pause_s)

    def _cannot_start(self, reason: str | None) -> None:
        if self.settings.reload:
            log.error("No worker can start; waiting for a change of the files")
            self._supervision.wait_for_reload()
            return
        log.error("No worker can start; stopping")
        self._upgrade.report(failed_because=f"no worker could start: {reason or 'see the error log'}")
        self._exit_status = EXIT_CANNOT_START
        self._stop(Request.QUIT)

    # What the commands of the control socket need: see gserver.arbiter.administration.Server

    @property
    def supervision(self) -> Supervision:
        return self._supervision

    @property
    def scoreboard(self) -> Scoreboard:
        return self._workers.scoreboard

    def reload(self) -> None:
        self._handle_signal(Request.RELOAD)

    def resize(self, target: int) -> None:
        self._set_target(target)

    def stop(self, quick: bool) -> None:
        self._handle_signal(Request.QUIT if quick else Request.STOP)

    def start_upgrade(self) -> int | None:
        """Start a new arbiter; return its pid, None if that failed."""
        self._start_new_arbiter()
        return self._upgrade.new_arbiter

    def cancel_upgrade(self) -> int | None:
        """Stop the new arbiter, the second time by force; return its pid, None if there is none to stop."""
        pid = self._upgrade.new_arbiter
        if pid is None or self._is_going_away:
            return None
        self._upgrade.cancel()
        return pid

    @property
    def is_upgrading(self) -> bool:
        return self._upgrade.is_under_way

    @property
    def last_upgrade(self) -> dict[str, Any] | None:
        return self._upgrade.last

    def dump_stacks(self, pid: int) -> None:
        """Have a worker write its stacks to the error log, even if it is stuck."""
        self._processes.signal(pid, signal.SIGUSR2)

    def listener_rows(self) -> list[dict[str, Any]]:
        known = [*self.settings.all_listeners, *self._before_reload[0].all_listeners]
        return self._listeners.rows(known, self._configuration.app or "", self._tls)

    def _ask_worker(self, pid: int, text: str) -> bool:
        return self._workers.ask(pid, text)

    # Requests

    def _handle_signal(self, request: Request) -> None:
        if request is Request.REAP:
            self._reap()
        elif request is Request.REOPEN:
            self._reopen_logs()
            self._metrics.replace()
        elif request in (Request.STOP, Request.QUIT):
            self._stop(request)
        elif not self._is_going_away:
            self._handle_request(request)
        elif not self._supervision.is_stopping:
            self._refuse(request)

    def _refuse(self, request: Request) -> None:
        """Nothing that takes longer than the shutdown delay may begin in it."""
        log.warning("Ignored, because the server is about to stop: %s", request.name)
        if request is Request.RELOAD and not self._supervision.is_reloading:
            self._reload_requests.collect(self._pidfile.path)
            self._reload_requests.reply("the server is about to stop")

    def _handle_request(self, request: Request) -> None:
        if request is Request.RELOAD:
            self._reload()
        elif request is Request.MORE:
            self._set_target(min(MAX_WORKERS, self._supervision.target + 1))
        elif request is Request.FEWER:
            self._set_target(max(1, self._supervision.target - 1))
        elif request is Request.DISMISS:
            self._dismiss()
        else:
            self._start_new_arbiter()

    def _reopen_logs(self) -> None:
        logs.reopen()
        self._workers.reopen_logs()

    def _set_target(self, target: int) -> None:
        before = self._supervision.target
        self._supervision.resize(target)
        if before != target:
            log.info("Workers: %d instead of %d", target, before)
            self._call_hook("nworkers_changed", self, target, before)

    def _dismiss(self) -> None:
        if is_in_foreground():
            log.debug("WINCH ignored: the server runs in a terminal")
        else:
            self._set_target(0)

    # Reloading

    def _reload(self) -> None:
        self._act()  # if a reload has just failed, first restore what this one must go back to
        self._live_reload.cancel()
        log.info("Reloading")
        self._administration.reload_began()
        self._reload_requests.collect(self._pidfile.path)
        self._notifier.reloading()
        try:
            with self._orphans.exempting():
                settings, fixed = self._configuration.read_again().with_fixed_of(self.settings)
        except ConfigError as error:
            self._reload_failed(ReloadFailed(str(error)))
            return
        except Exception as error:  # such as a bug in the config file: the serving workers go on
            log.exception("The reload could not start")
            self._reload_failed(ReloadFailed(described(error)))
            return
        for name in fixed:
            log.warning("Setting %s cannot be changed by a reload: it needs a restart", name)
        reason = reason_for_new_workers(changed_names(self.settings, settings), fixed)
        if reason is None and self._supervision.is_reloading:
            reason = "a reload is abandoned for this one"
        if reason is None:
            self._awaiting = settings
            self._live_reload.ask(self._reload_live)
        else:
            self._replace_workers(settings, reason)

    def _reload_live(self, reason: str | None) -> None:
        """Only live settings have changed: the running workers take them over, unless `reason` is one for new ones."""
        settings = self._awaiting
        changed = changed_names(self.settings, settings)
        if reason is None:
            try:
                self.change_live(plain_values(settings, changed))
            except ConfigError as error:
                reason = str(error)
        if reason is not None:
            self._replace_workers(settings, reason)
            return
        self._call_hook("on_reload", self)
        self._facts.reload_ended(True, time.time())
        self._follow_links()
        log.info("Reloaded: the running workers go on with other settings (%s)", ", ".join(changed))
        self._reply(None, is_live=True)

    def change_live(self, values: Mapping[str, Any]) -> None:
        """Change live settings, in all workers; ConfigError if that is not possible, and nothing is changed."""
        settings = with_values(self.settings, values)
        # They must also fit to those that a failed reload goes back to, and to those that a reload is about to apply.
        before, tls = with_values(self._before_reload[0], values), self._before_reload[1]
        awaiting = with_values(self._awaiting, values) if self._live_reload.is_deciding else self._awaiting
        self._workers.check_fits(values, settings, before)
        has_other_level = settings.loglevel != self.settings.loglevel
        self.settings, self._before_reload, self._awaiting = settings, (before, tls), awaiting
        self._supervision.policy = policy_of(settings, before)
        raise_open_files_limit(settings.worker_connections)
        if has_other_level:
            logs.set_level(settings.loglevel)
            self._metrics.replace()
        for pid in self._workers.set_live(values):
            self._supervision.request_recycling(pid)

    def _replace_workers(self, settings: Settings, reason: str) -> None:
        log.info("Reloading with new workers: %s", reason)
        if not self._supervision.is_reloading:
            self._before_reload = self.settings, self._tls
        try:
            enter(settings.chdir)
            tls = certificates_of(settings)
            check_metrics(settings.metrics_bind)
            self._listeners.open(settings.binds, patient=False)
            self._metrics.open(settings.metrics_bind, patient=False)
            logs.configure(settings)  # before the fork of new workers, which inherit the log files
        except ConfigError as error:
            self._reload_failed(ReloadFailed(str(error)))
            return
        except Exception as error:  # such as a bug in ssl_context
            log.exception("The reload could not start")
            self._reload_failed(ReloadFailed(described(error)))
            return
        self._apply(settings, tls)
        raise_open_files_limit(self.settings.worker_connections)
        self._call_hook("on_reload", self)
        self._workers.preload.begin_reload()
        self._supervision.begin_reload(settings.workers, time.monotonic())

    def _apply(self, settings: Settings, tls: TlsOfListeners) -> None:
        self.settings, self._tls = settings, tls
        self._hooks = settings.hooks
        self._supervision.policy = policy_of(settings, self._before_reload[0])

    def _reload_done(self) -> None:
        self._listeners.keep(self.settings.binds)
        self._workers.preload.end_reload(succeeded=True)
        self._before_reload = self.settings, self._tls
        self._facts.reload_ended(True, time.time())
        self._follow_links()
        if self._upgrade.is_in_charge:
            self._metrics.start(self.settings)
        log.info("Reloaded; listening at: %s", self._listeners.describe(self.settings.all_listeners))
        self._reply(None)

    def _follow_links(self) -> None:
        """A symbolic link in a path may lead elsewhere now."""
        self._pidfile.follow()
        self._stats.follow()
        self._control.follow()

    def _reload_failed(self, failed: ReloadFailed) -> None:
        if not self._supervision.is_reloading:
            self._workers.preload.end_reload(succeeded=False)
            self._apply(*self._before_reload)
            self._listeners.keep(self.settings.binds)
            self._metrics.keep(self.settings.metrics_bind)
        self._facts.reload_ended(False, time.time())
        self._restore_surroundings()
        log.error("Reload failed, the old workers go on: %s", failed.why)
        self._reply(failed.why)

    def _restore_surroundings(self) -> None:
        try:
            enter(self.settings.chdir)
            logs.configure(self.settings)
        except ConfigError as error:
            log.error("%s", error)

    def _reply(self, failure: str | None, is_live: bool = False) -> None:
        self._reload_requests.reply(failure, LIVE if is_live else FULL)
        self._administration.reload_ended(failure, is_live)
        if self._is_ready and not self._is_going_away:
            self._notifier.ready("reloaded" if failure is None else f"reload failed: {failure}")

    # Binary upgrade: USR2

    def _start_new_arbiter(self) -> None:
        if self._upgrade.is_under_way:
            log.warning("An upgrade is already running")
            return
        self._call_hook("pre_exec", self)
        launcher = self._upgrade.start(
            self._signals, self._listeners.descriptors, self._configuration.sockets, self._metrics.descriptors
        )
        if launcher:
            self._processes.add(launcher, self._new_arbiter_ended)
            for pid in (launcher, self._upgrade.new_arbiter or launcher):
                self._orphans.exempt(pid)

    def _new_arbiter_ended(self, death: Death) -> None:
        self._upgrade.lost(death.pid, f"it ended with {death.how}")
        log.error("The new arbiter ended with %s; the old one goes on", death.how)

    def _take_over(self) -> None:
        """The old arbiter is stopping or has ended: take over pid file, stats socket, metrics, notifications."""
        if self._upgrade.is_old_arbiter_gone():
            self._selector.unregister(self._upgrade)
            self._upgrade.old_arbiter_ended()
            log.info("The old arbiter has ended")
        self._reopen_logs()  # until now, a log rotation has signalled the old arbiter: its pid was in the pid file
        self._pidfile.rename(self.settings.pidfile)
        self._stats.rename(self.settings.stats_socket)
        if self.settings.control_socket is not None:
            self._control.rename(self.settings.control_socket)
        if not self._metrics.is_started:
            self._metrics.start(self.settings)
        self._notifier.took_over(self.pid)

    # Stopping

    @property
    def _is_going_away(self) -> bool:
        return self._supervision.is_stopping or self._supervision.is_leaving

    def _stop(self, request: Request) -> None:
        is_quick = request is Request.QUIT
        if self._live_reload.is_deciding:
            self._live_reload.cancel()
            self._reload_failed(ReloadFailed("the server is stopping"))
        if self._supervision.is_stopping:
            if is_quick:
                self._stop_at_once()
        elif self._exit_status:
            self._stop_at_once()
        elif is_quick or not self._begin_shutdown_delay():
            self._drain_all(is_quick)

    def _begin_shutdown_delay(self) -> bool:
        """Serve on for shutdown_delay, but be no longer ready; return whether there is something to wait for.

        No delay if one runs already, if no worker serves, and if another arbiter serves from the same sockets: clients
        that connect, now or later, are served by that one.
        """
        delay_s = self.settings.shutdown_delay
        is_serving = any(child.stage is Stage.SERVING for child in self._supervision)
        if self._supervision.is_leaving or not delay_s or not is_serving or self._upgrade.is_under_way:
            return False
        log.info("Stopping in %g s: health checks fail from now on, clients are still served", delay_s)
        self._supervision.is_leaving = True
        self._drains_at = time.monotonic() + delay_s
        self._notifier.stopping(delay_s + self._supervision.policy.drain_limit_s)
        return True

    def _stop_at_once(self) -> None:
        log.info("Stopping: now")
        for child in self._supervision:
            self._processes.signal(child.pid, signal.SIGQUIT)
        self._supervision.stop(time.monotonic(), SECOND_QUIT_S)

    def _drain_all(self, is_quick: bool) -> None:
        self._drains_at = None
        log.info("Stopping: draining connections")
        # That of the policy: in the middle of a reload, the old workers drain by the settings from before.
        limit_s = FIRST_QUIT_S if is_quick else self._supervision.policy.drain_limit_s
        if self._upgrade.is_under_way:
            self._facts.has_successor = True
            self._metrics.stop()
        self._upgrade.hand_over(self._notifier, self._pidfile, self._processes.end)
        self._notifier.stopping(limit_s)
        addresses = [] if self._upgrade.is_under_way else [str(bind) for bind in self.settings.binds]
        # The workers still have the listeners, and accept what the kernel has queued. No later client can connect.
        self._close_listeners()
        self._workers.preload.dismiss_all()
        self._reloader.stop()
        for child in self._supervision:
            if child.stage in (Stage.READY, Stage.SERVING):
                self._workers.send(child.pid, DRAIN_AT_ONCE if is_quick else DRAIN, addresses)
            elif child.stage is not Stage.DRAINING:
                self._spawner.kill(child)
        self._supervision.stop(time.monotonic(), limit_s)

    def _close_listeners(self) -> None:
        if self._upgrade.is_under_way:
            self._listeners.close_without_unlink()
        else:
            self._listeners.close()

    def _close_in_child(self) -> None:
        """In a child process: close what belongs to the arbiter only."""
        self._selector.close()
        self._listeners.close_without_unlink()
        self._upgrade.leave_to_child()
        self._stats.leave_to_child()
        self._control.leave_to_child()
        self._metrics.leave_to_child()
        self._orphans.leave_to_child()
        if self._daemon is not None:
            self._daemon.leave_to_child()

    def _close(self) -> None:
        # Only after an exception in the loop is there still a new arbiter to hand over to, or a worker to kill.
        self._upgrade.hand_over(self._notifier, self._pidfile, self._processes.end)
        self._processes.kill_all()
        self._close_listeners()
        self._metrics.close(is_shared=self._upgrade.is_under_way)
        self._pidfile.remove()
        self._stats.close()
        self._administration.server_stopped()
        self._control.close()
        self._reload_requests.reply("the server has stopped")
        if hasattr(self, "_workers"):
            self._workers.close()
        self._orphans.close()
        self._selector.close()
        self._upgrade.close()


def _why_killed(child: Child) -> str:
    if child.must_end_since is not None:
        return "is killed and replaced, as an operator has requested"
    return "did not become ready in time" if child.stage is Stage.BOOTING else "missed its heartbeat deadline"
