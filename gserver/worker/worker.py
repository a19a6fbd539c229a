"""The life of a worker.

    hooks, privileges, patch -> import the application -> its ready() -> probe -> READY -> LISTEN: serve -> DRAIN -> end

Between READY and LISTEN it holds no listener: a worker that dies there has cost no client anything. It ends when the
arbiter says so, on TERM, or when the arbiter is gone.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib
import logging
import os
import random
import signal
import socket
import sys
import time
import warnings
from types import FrameType
from typing import TYPE_CHECKING, Any

from gserver.arbiter.channel import (
    DRAIN,
    DRAIN_AT_ONCE,
    LISTEN,
    NOT_ACCEPTING,
    QUICK_S,
    READY,
    RECYCLE,
    REOPEN,
    Message,
)
from gserver.arbiter.scoreboard import HEARTBEAT_S
from gserver.arbiter.worker_processes import EXIT_CANNOT_START, Post
from gserver.config.settings import Settings
from gserver.config.working_directory import enter
from gserver.counters import Counters
from gserver.errors import ConfigError
from gserver.limits.drain_spread import spread_s
from gserver.process import logs
from gserver.process.child import run_and_exit
from gserver.process.daemon import leave_terminal
from gserver.process.privileges import drop_privileges
from gserver.process.proctitle import set_title
from gserver.user_errors import check_made_codec
from gserver.worker.app_loader import Application
from gserver.worker.fork_cleanup import in_every_fork, make_inert, take_default_signals
from gserver.worker.process_exit import Ending
from gserver.worker.readiness_check import ReadyFailed, be_ready
from gserver.worker.recycling import Wear

if TYPE_CHECKING:
    from gserver.worker.block_detector import HubWatch
    from gserver.worker.worker_server import WorkerServer

__all__ = ["Worker", "run_worker"]

log = logging.getLogger("gserver.worker")

# What the service's stop() gets, even if the drain took all of the time.
STOP_S = 1.0
STOP_KILL_S = 0.2
# After the drain's time: what stop(), hooks, atexit and what is flushed may take. Less than the arbiter waits.
END_S = 3.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def run_worker(application: Application, post: Post) -> int:
    """Serve at `post` until told to stop; return the exit status of the process."""
    ending = Ending(post.channel)
    try:
        return _run(Worker(application, post, ending))
    finally:
        ending.limit_if_none(END_S)
        ending.run()


def _run(worker: Worker) -> int:
    try:
        served = worker.prepare()
    except ConfigError as error:
        log.error("%s", error, exc_info=error.__cause__ if isinstance(error, ReadyFailed) else None)
        return EXIT_CANNOT_START
    except BaseException:
        log.exception("%r cannot be imported", worker.application.text)
        return EXIT_CANNOT_START
    return worker.serve(served)


class Worker:
    """One worker, as hooks see it too.

    Attributes: pid; age, the how-manyeth worker of its arbiter; settings; log.
    """

    def __init__(self, application: Application, post: Post, ending: Ending) -> None:
        self.pid = os.getpid()
        self.age = post.age
        self.settings: Settings = post.settings
        self.log = log
        self.application = application
        self._post = post
        self._ending = ending
        self._hooks = post.settings.hooks
        self._counters = Counters(post.place.cells)
        self._wear = Wear.of(post.settings, random.Random(self.pid))
        self._began_at = time.monotonic()
        self._servers: list[tuple[str, WorkerServer]] = []  # with the address of each
        self._finish: tuple[str, ...] | None = None  # told to drain: the addresses that nobody will serve after it
        self._drains_at_once = False
        self._graceful_s = post.settings.graceful_timeout
        self._spread_s = 0.0  # once it drains: over how long
        self._ends_at = 0.0  # once it drains: when it should have ended
        self._asked_to_be_replaced = False
        self._hub_watch: HubWatch | None = None
        self._heart: Any = None  # the timer of the beats
        self._lag_noted_at = 0.0

    # Getting ready

    def prepare(self) -> Any:
        """Return what is to be served, ready and probed. ConfigError, or whatever the application raises."""
        settings = self.settings
        log.info("Booting worker (pid: %d)", self.pid)
        in_every_fork(self._leave_to_parent)
        self._hooks.call("post_fork", self._post.server, self)
        set_title("worker", settings.proc_name or self.application.text)
        drop_privileges(settings.user, settings.group, settings.initgroups)
        signal.signal(signal.SIGABRT, self._abort)
        signal.signal(signal.SIGUSR2, self._dump)
        faulthandler.register(signal.SIGUSR2, chain=True)  # even a worker that is stuck in C says where
        served = self._post.served if self._post.served is not None else load(settings, self.application)
        fit(served, settings)
        self._hooks.call("post_worker_init", self)
        be_ready(served, settings.ready_timeout or None)
        return served

    # Serving

    def serve(self, served: Any) -> int:
        """Serve until told to stop; return the exit status."""
        import gevent
        from gevent.event import Event

        from gserver.connection.log_throttling import Notices
        from gserver.fault_isolation import log_hub_errors, shielded
        from gserver.worker.block_detector import HubWatch

        log_hub_errors()
        self._stop = Event()
        self._notices = Notices()
        self._served = served
        loop = gevent.get_hub().loop
        gevent.signal_handler(signal.SIGTERM, self._drain)
        gevent.signal_handler(signal.SIGQUIT, self._quit)
        gevent.signal_handler(signal.SIGUSR1, logs.reopen)
        ear = loop.io(self._post.channel.fileno(), 1)
        ear.start(shielded, "reading what the arbiter sends", self._hear)
        self._heart = loop.timer(0.0, HEARTBEAT_S)
        self._heart.start(shielded, "the heartbeat", self._beat)
        if self.settings.block_warning:
            self._hub_watch = HubWatch(self.settings.block_warning)
        # What was made so far lives as long as the process: no collection need look at it again.
        gc.collect()
        gc.freeze()
        self._beat()  # before anybody counts on it
        self._post.channel.send(READY)
        self._stop.wait()
        killed = self._end()
        self._beat()
        if killed:
            log.warning("Killed %d connections that were still busy (pid: %d)", killed, self.pid)
        self._finish_service()
        self._hooks.call("worker_exit", self._post.server, self)
        if self._hub_watch is not None:
            self._hub_watch.stop()
        ear.stop()
        return 0

    def _hear(self) -> None:
        """The arbiter has said something, or is gone."""
        try:
            message = self._post.channel.receive()
        except BlockingIOError:
            return
        if message is None:
            self._drain(tuple(address for address, _ in self._servers))
        elif message.word == LISTEN:
            self._listen(message)
        elif message.word == REOPEN:
            logs.adopt(message.addresses, message.descriptors)
        elif message.word in (DRAIN, DRAIN_AT_ONCE):
            self._drains_at_once = message.word == DRAIN_AT_ONCE
            self._drain(message.addresses)

    def _listen(self, message: Message) -> None:
        from gserver.server.admission import Door
        from gserver.worker.shared_counts import SharedOccupancy
        from gserver.worker.worker_server import WorkerServer, limits_of

        if self.settings.daemon:
            leave_terminal()  # what can go wrong at a start was said there
        scoreboard = None if self.settings.reuse_port else self._post.scoreboard
        door = Door(limits_of(self.settings), SharedOccupancy(self._post.scoreboard, self._post.place))
        for address, descriptor in zip(message.addresses, message.descriptors, strict=True):
            listener = socket.socket(fileno=descriptor)
            server = WorkerServer(
                listener,
                self._served,
                self.settings,
                self._counters,
                scoreboard,
                self,
                door=door,
                tls=self._post.tls,
                notices=self._notices,
            )
            server.start()
            self._servers.append((address, server))
        self._post.place.is_serving = True

    def _drain(self, finish: tuple[str, ...] = ()) -> None:
        if self._finish is not None:
            return
        self._finish = finish
        if self._drains_at_once:
            self._graceful_s = min(QUICK_S, self._graceful_s)
        try:
            self._spread_s = self._choose_spread()
            self._ends_at = time.monotonic() + self._spread_s + self._graceful_s
            self._post.place.is_serving = False
            for _, server in self._servers:
                server.stop_accepting()
            self._post.channel.send(NOT_ACCEPTING)
        finally:
            self._stop.set()

    def _end(self) -> int:
        """Drain all servers together; return how many connections had to be killed."""
        import gevent

        from gserver.server.tcp_server import FIRST_ANSWER_S

        assert self._finish is not None
        drains = [
            gevent.spawn(
                server.drain,
                self._graceful_s,
                spread_s=self._spread_s,
                accept_queued=address in self._finish,
                first_answer_s=0.0 if self._drains_at_once else FIRST_ANSWER_S,
            )
            for address, server in self._servers
        ]
        return sum(drain.get() for drain in drains)

    def _choose_spread(self) -> float:
        count = sum(len(server.connections) for _, server in self._servers)
        seconds = 0.0 if self._drains_at_once else spread_s(self.settings.drain_spread, count)
        if count:
            log.info("Draining %d connections over %.3g s (pid: %d)", count, seconds, self.pid)
        return seconds

    def _leave_to_parent(self) -> None:
        """In a process that the application has forked from this worker, which goes on alone with all that is its."""
        take_default_signals()
        if self._heart is not None:
            self._heart.stop()
        descriptors = [descriptor for _, server in self._servers for descriptor in server.leave_to_parent()]
        make_inert([self._post.channel.fileno(), *descriptors])
        self._post.scoreboard.become_private()

    def _finish_service(self) -> None:
        """Call the service's stop() within what is left of the time. No beat is waited for any more, but the end."""
        from gserver.service import Service, StreamService

        self._heart.stop()
        self._post.place.deadline = 0.0
        left_s = max(0.0, self._ends_at - time.monotonic())
        self._ending.limit(left_s + END_S)
        stop = self._served.stop if isinstance(self._served, Service | StreamService) else None
        if stop is not None:
            _call_within(stop, max(STOP_S, left_s))

    # Once a second

    def _beat(self) -> None:
        """Show that the hub turns, and do what is due once a second; a step that fails leaves the others alone."""
        from gserver.fault_isolation import shielded

        now = time.monotonic()
        self._note_lag(now)
        self._post.place.beat_at = now
        if self.settings.timeout:
            self._post.place.deadline = now + self.settings.timeout
        for what, step in (
            ("writing the logs", logs.retry),
            ("reporting limits", self._notices.log_due),
            ("looking for new certificates", self._look_at_certificates),
            ("counting bytes", self._count_bytes),
            ("looking whether to be replaced", self._look_at_wear),
        ):
            shielded(what, step)

    def _look_at_certificates(self) -> None:
        if self._post.tls is not None:
            self._post.tls.reload_if_changed()

    def _count_bytes(self) -> None:
        self._counters.enter_bytes(conn for _, server in self._servers for conn in server.connections)

    def _look_at_wear(self) -> None:
        if self._asked_to_be_replaced or not self._servers:
            return
        rss = _rss_bytes() if self._wear.minds_memory else 0
        reason = self._wear.reason(self._counters.messages, time.monotonic() - self._began_at, rss)
        if reason is not None:
            self._asked_to_be_replaced = True
            log.info("Worker asks to be replaced: %s (pid: %d)", reason, self.pid)
            self._post.channel.send(RECYCLE)

    def _note_lag(self, now: float) -> None:
        """How late the hub came to what was due in the last second, as far as it was noticed.

        libev makes up for a beat that came late by another one at once: what was noted stands for its second.
        """
        if now - self._lag_noted_at < HEARTBEAT_S / 2:
            return
        self._lag_noted_at = now
        place = self._post.place
        late_s = max(0.0, now - place.beat_at - HEARTBEAT_S) if place.beat_at else 0.0
        seen_s = 0.0 if self._hub_watch is None else self._hub_watch.take_longest()
        place.lag_s = max(late_s, seen_s)

    # Ending at once

    def _quit(self) -> None:
        self._hooks.call("worker_int", self)
        self._post.channel.send(NOT_ACCEPTING)
        self._ending.limit(QUICK_S)
        run_and_exit(self._run_ending)

    def _run_ending(self) -> int:
        self._ending.run()
        return 0

    def _dump(self, number: int, frame: FrameType | None) -> None:
        """USR2: write where every greenlet stands. From the arbiter it comes after the deadline only."""
        from gserver.worker.stack_dump import describe_stacks

        connections = [conn for _, server in self._servers for conn in server.connections]
        stacks, deadline = describe_stacks(connections, frame), self._post.place.deadline
        if deadline is not None and time.monotonic() >= deadline:
            log.critical("Worker was not heard of in time (pid: %d)\n%s", self.pid, stacks)
        else:
            log.warning("Stacks of the worker, asked for by USR2 (pid: %d)\n%s", self.pid, stacks)

    def _abort(self, number: int, frame: FrameType | None) -> None:
        """ABRT: the arbiter has waited long enough."""
        self._hooks.call("worker_abort", self)
        logs.finish()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.abort()


def _call_within(stop: Any, seconds: float) -> None:
    """Call the service's stop() in a greenlet of its own; log what it raises, kill it if it does not return in time."""
    import gevent

    def call() -> None:
        try:
            stop()
        except gevent.GreenletExit:
            raise
        except BaseException:
            log.exception("stop of the service failed")

    greenlet = gevent.spawn(call)
    greenlet.join(seconds)
    if not greenlet.dead:
        log.error("stop of the service did not return within %.3g s, and is killed", seconds)
        greenlet.kill(timeout=STOP_KILL_S)


def load(settings: Settings, application: Application) -> Any:
    """Patch, and import the application. ConfigError, or whatever it raises."""
    if settings.patch:
        from gevent import monkey

        if settings.certfile is not None:  # gserver.tls.contexts is ready for it
            warnings.filterwarnings("ignore", "Monkey-patching ssl after ssl", monkey.MonkeyPatchWarning)
        patch_all()
    for variable in settings.raw_env:
        name, _, value = variable.partition("=")
        os.environ[name] = value
    enter(settings.chdir)
    importlib.invalidate_caches()  # it may be another folder of the same name, written at the same time
    if settings.chdir not in sys.path:
        sys.path.insert(0, settings.chdir)
    return application.load()


def patch_all() -> None:
    """gevent's own, for which the metadata of what is installed is read once.

    gevent asks for plugins at every step, 25 times, and reads the metadata of all distributions for each.
    """
    from importlib import metadata

    from gevent import monkey

    asked = metadata.entry_points
    metadata.entry_points = metadata.entry_points().select
    try:
        monkey.patch_all()
    finally:
        metadata.entry_points = asked


def fit(served: Any, settings: Settings) -> None:
    """Have what is served bear the settings. ConfigError where it cannot, or where its codec is none."""
    if hasattr(served, "codec"):
        check_made_codec(served.codec)
    check_entrance(served, settings)
    if settings.max_message_size:
        limit_messages(served, settings.max_message_size)


def check_entrance(served: Any, settings: Settings) -> None:
    """ConfigError where settings would be ignored: a bare handler is given its socket as it was accepted."""
    if hasattr(served, "codec"):
        return
    for name, value, off in (("certfile", settings.certfile, None), ("proxy_protocol", settings.proxy_protocol, "off")):
        if value != off:
            raise ConfigError(f"setting {name} is {value!r}, but {served!r} is a bare handler: it must be a service")


def limit_messages(served: Any, max_bytes: int) -> None:
    """Give the codec of `served` this maximum; ConfigError if it is no service, or its codec has none."""
    codec = getattr(served, "codec", None)
    try:
        assert codec is not None
        limited = functools.partial(codec, max_bytes=max_bytes)
        limited()
    except (TypeError, ValueError, AssertionError):
        name = getattr(codec, "__name__", None) or "a bare handler"
        raise ConfigError(f"setting max_message_size cannot be used: {name} has no max_bytes") from None
    served.codec = limited


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:  # no descriptor is left; there will be one at another beat
        return 0
