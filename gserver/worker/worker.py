"""The worker process, from its fork to its exit.

    hooks, privileges, patch -> import the application -> its ready() -> probe -> READY -> LISTEN: serve -> DRAIN ->
    exit

Until LISTEN the worker has no listener: if it dies before, no client is affected. It drains and exits on DRAIN from the
arbiter, on TERM, and when the arbiter has ended.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib
import json
import logging
import os
import random
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gserver.arbiter.channel import (
    DRAIN,
    DRAIN_AT_ONCE,
    DRAIN_AT_ONCE_S,
    FAILED,
    LINK,
    LINKED,
    LINKS,
    LISTEN,
    NOT_ACCEPTING,
    QUESTION,
    READY,
    RECYCLE,
    REOPEN,
    SET,
    STACKS,
    Channel,
    Message,
)
from gserver.arbiter.scoreboard import HEARTBEAT_S
from gserver.arbiter.worker_processes import EXIT_CANNOT_START, WorkerContext
from gserver.config.addresses import parse_bind
from gserver.config.listener_settings import Listener
from gserver.config.live_settings import with_values
from gserver.config.settings import Settings
from gserver.config.working_directory import enter
from gserver.counters import Cells, Counters
from gserver.errors import ConfigError
from gserver.limits.drain_spread import spread_s
from gserver.process import logs
from gserver.process.child import run_and_exit
from gserver.process.daemon import leave_terminal
from gserver.process.oom_score import raise_above
from gserver.process.open_files import raise_open_files_limit
from gserver.process.privileges import drop_privileges
from gserver.process.proctitle import set_title
from gserver.user_errors import check_made_codec, described
from gserver.worker.applications import Applications, CannotImport
from gserver.worker.fork_cleanup import make_inert, reset_signals, run_in_every_fork
from gserver.worker.imported_files import ImportBeginning, ImportedFiles
from gserver.worker.process_exit import ProcessExit
from gserver.worker.readiness_check import ReadyFailed, check_ready
from gserver.worker.recycling import RecyclingLimits

if TYPE_CHECKING:
    from gserver.bus.worker_bus import Bus
    from gserver.connection.connection import Connection
    from gserver.offload.pools import Pools
    from gserver.server.admission import Door
    from gserver.worker.block_detector import BlockDetector
    from gserver.worker.recorder import Recorder
    from gserver.worker.worker_server import WorkerServer

__all__ = ["Worker", "report_failure", "report_import_failure", "run_worker"]

log = logging.getLogger("gserver.worker")

Loaded = TypeVar("Loaded", covariant=True)


class Loadable(Protocol[Loaded]):
    """What imports user code when it is loaded: an Application, or Applications."""

    def load(self) -> Loaded: ...


# The least time for the service's stop(), even if the drain has used up the graceful timeout.
STOP_S = 1.0
STOP_KILL_S = 0.2
# After the drain: the limit for stop(), hooks, exit functions and flushing. Less than KILL_GRACE_S of the arbiter.
END_S = 3.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# With an older heartbeat than this, the worker does not answer questions of the arbiter in time, which is two seconds.
BLOCKED_S = HEARTBEAT_S + 0.5
# Characters that are sent to the arbiter: each takes 6 bytes at most, and a message 64 KiB.
MAX_STACKS, MAX_REASON = 10_000, 500


def run_worker(app: str | None, context: WorkerContext) -> int:
    """Run a worker until it has drained; return the exit status of the process.

    Args:
        app: the APP of the command line; None: each listener has an app of its own.
    """
    process_exit = ProcessExit(context.channel)
    try:
        return _run(Worker(Applications(context.settings, app), context, process_exit), context.channel)
    finally:
        process_exit.limit_if_none(END_S)
        process_exit.run()


def _run(worker: Worker, channel: Channel) -> int:
    try:
        served = worker.prepare()
    except ConfigError as error:
        log.error("%s", error, exc_info=error.__cause__ if isinstance(error, ReadyFailed) else None)
        report_failure(channel, str(error))
        return EXIT_CANNOT_START
    except CannotImport as failure:
        report_import_failure(channel, failure.text, failure.__cause__)
        return EXIT_CANNOT_START
    except BaseException as error:
        report_import_failure(channel, worker.applications.title, error)
        return EXIT_CANNOT_START
    return worker.serve(served)


class Worker:
    """One worker. Hooks get this object.

    Attributes: pid; age (1 for the first worker of its arbiter, 2 for the next); settings; log.
    """

    def __init__(self, applications: Applications, context: WorkerContext, process_exit: ProcessExit) -> None:
        self.pid = os.getpid()
        self.age = context.age
        self.settings: Settings = context.settings
        self.log = log
        self.applications = applications
        self._context = context
        self._process_exit = process_exit
        self._hooks = context.settings.hooks
        self._counters = Counters(context.slot.cells)
        self._recycling = RecyclingLimits.of(context.settings, random.Random(self.pid))
        self._started_at = time.monotonic()
        self._servers: list[tuple[Listener, WorkerServer]] = []
        self._door: Door | None = None  # the admission limits of all servers
        # Once it drains: the addresses that no worker serves after it.
        self._closing_addresses: tuple[str, ...] | None = None
        self._drains_at_once = False
        self._graceful_s = context.settings.graceful_timeout
        self._spread_s = 0.0  # once it drains: over how many seconds connections end
        self._drained_by = 0.0  # once it drains: the end of the graceful timeout
        self._offload: Pools | None = None  # for gserver.offload; None before they are started
        self._bus: Bus | None = None  # for gserver.bus; None before it is started
        self._uses_bus = False  # whether the application has imported gserver.bus before it is ready
        self._has_requested_recycling = False
        self._block_detector: BlockDetector | None = None
        self._heartbeat_timer: Any = None  # a timer of gevent's loop
        self._second_recorded_at = 0.0  # when lag and message rate were last written
        self._messages_before = 0  # the number of messages at that time

    # Start

    def prepare(self) -> dict[str, Any]:
        """Load and check the applications; return them by their texts. ConfigError, or an exception of one of them."""
        settings, began = self.settings, ImportBeginning.now(self.settings.chdir)
        log.info("Booting worker (pid: %d)", self.pid)
        run_in_every_fork(self._leave_to_parent)
        be_killed_first(self._context)
        self._hooks.call("post_fork", self._context.server, self)
        set_title("worker", settings.proc_name or self.applications.title)
        drop_privileges(settings.user, settings.group, settings.initgroups)
        signal.signal(signal.SIGABRT, self._abort)
        signal.signal(signal.SIGUSR2, self._dump_stacks)
        faulthandler.register(signal.SIGUSR2, chain=True)  # it also works while C code holds the GIL
        applications = self.applications
        served: dict[str, Any] = self._context.served or load(settings, applications)
        applications.each(served, lambda each, at: apply_settings(each, settings, at))
        self._offload = start_offload(settings, applications.modules, self._counters.cells)
        self._bus, self._uses_bus = start_bus(settings, self._context.channel, self._counters.cells)
        self._hooks.call("post_worker_init", self)
        ready_s = settings.ready_timeout or None
        applications.each(served, lambda each, at: check_ready(each, ready_s, listener_name=at[0].name))
        self._imported_files = self._context.imported_files or ImportedFiles.record(settings.chdir, began)
        return served

    # Serving

    def serve(self, served: dict[str, Any]) -> int:
        """Serve until DRAIN, TERM or the end of the arbiter; then drain, and return the exit status."""
        import gevent
        from gevent.event import Event

        from gserver.connection.log_throttling import Notices
        from gserver.fault_isolation import log_hub_errors, shielded
        from gserver.worker.block_detector import BlockDetector
        from gserver.worker.inspection import Inspection
        from gserver.worker.recorder import KEEP_S

        log_hub_errors()
        self._stop = Event()
        self._notices = Notices()
        self._served = served
        self._recorder = self._make_recorder()
        self._inspection = Inspection(self._context.channel, self._named_servers, self._subjects(), {"record": KEEP_S})
        loop = gevent.get_hub().loop
        gevent.signal_handler(signal.SIGTERM, self._drain)
        gevent.signal_handler(signal.SIGQUIT, self._quit)
        gevent.signal_handler(signal.SIGUSR1, self._reopen_logs)
        channel_watcher = loop.io(self._context.channel.fileno(), 1)
        channel_watcher.start(shielded, "reading messages of the arbiter", self._read_message)
        self._heartbeat_timer = loop.timer(0.0, HEARTBEAT_S)
        self._heartbeat_timer.start(shielded, "the heartbeat", self._heartbeat)
        if self.settings.block_warning:
            self._block_detector = BlockDetector(self.settings.block_warning)
        # The present objects live as long as the process: the garbage collector need not visit them again.
        gc.collect()
        gc.freeze()
        self._heartbeat()  # before the arbiter depends on it
        if self._bus is not None and (self._uses_bus or self._bus.is_used):
            self._bus.join()
        self._context.channel.send(READY)
        self._stop.wait()
        killed = self._drain_servers()
        self._recorder.finish()
        self._inspection.close()
        self._heartbeat()
        if killed:
            log.warning("Killed %d connections that were still busy (pid: %d)", killed, self.pid)
        self._finish_service()
        self._hooks.call("worker_exit", self._context.server, self)
        if self._block_detector is not None:
            self._block_detector.stop()
        channel_watcher.stop()
        return 0

    def _subjects(self) -> Mapping[str, Callable[[Mapping[str, Any]], Iterator[Any]]]:
        """The questions of the arbiter about other things than connections."""
        from gserver.worker.code_inspection import CodeInspection

        code = CodeInspection(self._connections, list(self._served.values()))
        return {
            "changed files": lambda arguments: self._imported_files.changed(),
            **code.subjects,
            **self._recorder.subjects,
        }

    def _make_recorder(self) -> Recorder:
        from gserver.worker.recorder import Recorder

        texts = {listener.name: self.applications.text_of(listener) for listener in self.settings.all_listeners}
        mask = self.settings.record_mask
        return Recorder(self._named_servers, list(self._served.values()), texts, mask)

    def _named_servers(self) -> list[tuple[str, WorkerServer]]:
        return [(listener.name, server) for listener, server in self._servers]

    def _connections(self) -> list[Connection]:
        return [conn for _, server in self._servers for conn in server.connections]

    def _read_message(self) -> None:
        """The channel is readable: act on a message, or drain if the arbiter has ended."""
        try:
            message = self._context.channel.receive()
        except BlockingIOError:
            return
        if message is None:
            self._drain(tuple(str(listener.bind) for listener, _ in self._servers))
        elif message.kind == LISTEN:
            self._listen(message)
        elif message.kind == QUESTION:
            self._inspection.ask(message.addresses[0])
        elif message.kind == LINK and self._bus is not None:
            self._bus.linked(message.addresses, message.descriptors)
        elif message.kind == LINKED and self._bus is not None:
            self._bus.all_linked()
        elif message.kind == SET:
            self._apply_live(json.loads(message.addresses[0]))
        elif message.kind == REOPEN:
            logs.adopt(message.addresses, message.descriptors)
            self._logs_reopened()
        elif message.kind in (DRAIN, DRAIN_AT_ONCE):
            self._drains_at_once = message.kind == DRAIN_AT_ONCE
            self._drain(message.addresses)

    def _reopen_logs(self) -> None:
        logs.reopen()
        self._logs_reopened()

    def _logs_reopened(self) -> None:
        if self.settings.capture_output and self._offload is not None:  # its processes have inherited the old file
            self._offload.renew_processes()

    def _listen(self, message: Message) -> None:
        from gserver.server.admission import Door
        from gserver.worker.shared_counts import SharedCounts
        from gserver.worker.worker_server import WorkerServer, limits_of

        if self.settings.daemon:
            leave_terminal()  # start-up errors were printed there
        scoreboard = None if self.settings.reuse_port else self._context.scoreboard
        if self._door is None:
            self._door = Door(limits_of(self.settings), SharedCounts(self._context.scoreboard, self._context.slot))
        for address, descriptor in zip(message.addresses, message.descriptors, strict=True):
            listener = self._listener_at(address)
            if listener is None:  # of a reload that is later than this worker: the arbiter keeps it open
                os.close(descriptor)
                continue
            server = WorkerServer(
                socket.socket(fileno=descriptor),
                self._served[self.applications.text_of(listener)],
                self.settings.for_listener(listener),
                self._counters,
                scoreboard,
                self,
                listener=listener,
                door=self._door,
                tls=self._context.tls.get(listener.name),
                notices=self._notices,
            )
            self._recorder.watch(server)
            server.start()
            self._servers.append((listener, server))
        self._context.slot.is_serving = True

    def _listener_at(self, address: str) -> Listener | None:
        """The listener of an address; None if this worker does not know what is served there."""
        known = self.settings.all_listeners
        found = next((listener for listener in known if str(listener.bind) == address), None)
        if found is None and not self.settings.listeners:  # everything is served by the one application
            return Listener(parse_bind(address), address)
        return found

    def _apply_live(self, values: Mapping[str, Any]) -> None:
        """Take over other values of live settings; the arbiter has validated them for its own settings."""
        from gserver.worker.block_detector import BlockDetector
        from gserver.worker.worker_server import limits_of

        before = self.settings
        try:
            self.settings = settings = with_values(before, values)
        except ConfigError as error:  # it drains, with settings from before a reload that others do not fit to
            log.warning("Settings not changed: %s (pid: %d)", error, self.pid)
            return
        if before.loglevel != settings.loglevel:
            logs.set_level(settings.loglevel)
        raise_open_files_limit(settings.worker_connections)
        if self._closing_addresses is None:  # a drain that has begun ends as planned
            self._graceful_s = settings.graceful_timeout
        self._recycling = RecyclingLimits.of(settings, random.Random(self.pid))
        if before.block_warning != settings.block_warning:
            if self._block_detector is not None:
                self._block_detector.stop()
            self._block_detector = BlockDetector(settings.block_warning) if settings.block_warning else None
        if self._door is not None:
            self._door.change(limits_of(settings))
        for listener, server in self._servers:
            server.apply(settings.for_listener(listener))
        if not settings.timeout:
            self._context.slot.deadline = 0.0
        log.info("Settings changed: %s (pid: %d)", ", ".join(values), self.pid)

    def _drain(self, closing_addresses: tuple[str, ...] = ()) -> None:
        if self._closing_addresses is not None:
            return
        self._closing_addresses = closing_addresses
        if self._drains_at_once:
            self._graceful_s = min(DRAIN_AT_ONCE_S, self._graceful_s)
        try:
            self._spread_s = self._choose_spread()
            self._drained_by = time.monotonic() + self._spread_s + self._graceful_s
            self._context.slot.is_serving = False
            for _, server in self._servers:
                server.stop_accepting()
            self._context.channel.send(NOT_ACCEPTING)
        finally:
            self._stop.set()

    def _drain_servers(self) -> int:
        """Drain all servers at the same time; return how many connections had to be killed."""
        import gevent

        from gserver.server.tcp_server import FIRST_ANSWER_S

        assert self._closing_addresses is not None
        drains = [
            gevent.spawn(
                server.drain,
                self._graceful_s,
                spread_s=self._spread_s,
                accept_queued=str(listener.bind) in self._closing_addresses,
                first_answer_s=0.0 if self._drains_at_once else FIRST_ANSWER_S,
            )
            for listener, server in self._servers
        ]
        return sum(drain.get() for drain in drains)

    def _choose_spread(self) -> float:
        count = sum(len(server.connections) for _, server in self._servers)
        seconds = 0.0 if self._drains_at_once else spread_s(self.settings.drain_spread, count)
        if count:
            log.info("Draining %d connections over %.3g s (pid: %d)", count, seconds, self.pid)
        return seconds

    def _leave_to_parent(self) -> None:
        """In a process that the application has forked: detach it from everything that belongs to this worker."""
        reset_signals()
        if self._heartbeat_timer is not None:
            self._heartbeat_timer.stop()
        descriptors = [descriptor for _, server in self._servers for descriptor in server.leave_to_parent()]
        for part in (self._offload, self._bus):
            descriptors += [] if part is None else part.leave_to_parent()
        make_inert([self._context.channel.fileno(), *descriptors])
        self._context.scoreboard.become_private()

    def _finish_service(self) -> None:
        """Call stop() of each service within the remaining time. A time limit replaces the heartbeats from now on."""
        from gserver.service import Service, StreamService

        self._heartbeat_timer.stop()
        self._context.slot.deadline = 0.0
        left_s = max(0.0, self._drained_by - time.monotonic())
        self._process_exit.limit(left_s + END_S)
        different = {id(each): each for each in self._served.values()}  # two texts may name one service
        services = [each for each in different.values() if isinstance(each, Service | StreamService)]
        stops = [service.stop for service in services if service.stop is not None]
        if stops:
            _call_within(stops, max(STOP_S, left_s))
        if self._offload is not None:
            self._offload.close(max(0.0, self._drained_by - time.monotonic()))
        if self._bus is not None:
            self._bus.close()

    # Once a second

    def _heartbeat(self) -> None:
        """Write the heartbeat and do the periodic work, once a second. A failing step does not affect the others."""
        from gserver.fault_isolation import shielded

        now = time.monotonic()
        self._record_second(now)
        self._context.slot.heartbeat_at = now
        if self.settings.timeout:
            self._context.slot.deadline = now + self.settings.timeout
        for name, step in (
            ("writing the logs", logs.retry),
            ("reporting limits", self._notices.log_due),
            ("reporting lost messages", self._bus.log_due if self._bus is not None else int),
            ("checking for new certificates", self._check_certificates),
            ("counting bytes", self._count_bytes),
            ("checking the recycling limits", self._check_recycling),
            ("forgetting listings", self._inspection.forget_unread),
        ):
            shielded(name, step)

    def _check_certificates(self) -> None:
        from gserver.fault_isolation import shielded

        made = set(self._context.tls.values())
        if not made:
            return
        for tls in made:
            shielded("checking for new certificates", tls.reload_if_changed)
        ends = [tls.until.timestamp() for tls in made if tls.until is not None]
        self._context.slot.certificate_not_after = min(ends, default=None)

    def _count_bytes(self) -> None:
        self._counters.enter_bytes(conn for _, server in self._servers for conn in server.connections)

    def _check_recycling(self) -> None:
        if self._has_requested_recycling or not self._servers:
            return
        rss = _rss_bytes() if self._recycling.checks_memory else 0
        reason = self._recycling.reason(self._counters.messages, time.monotonic() - self._started_at, rss)
        if reason is not None:
            self._has_requested_recycling = True
            log.info("Worker is to be recycled: %s (pid: %d)", reason, self.pid)
            self._context.channel.send(RECYCLE)

    def _record_second(self, now: float) -> None:
        """Record the message rate and the delay of the event loop in the last second.

        After a late heartbeat, libev runs the next one at once to catch up. That one is skipped here, so that the
        recorded delay remains for its second.
        """
        since_s, messages = now - self._second_recorded_at, self._counters.messages
        if since_s < HEARTBEAT_S / 2:
            return
        slot = self._context.slot
        slot.message_rate = (messages - self._messages_before) / since_s
        self._second_recorded_at, self._messages_before = now, messages
        late_s = max(0.0, now - slot.heartbeat_at - HEARTBEAT_S) if slot.heartbeat_at else 0.0
        blocked_s = 0.0 if self._block_detector is None else self._block_detector.take_longest()
        slot.lag_s = max(late_s, blocked_s)

    # Immediate exit

    def _quit(self) -> None:
        self._hooks.call("worker_int", self)
        self._context.channel.send(NOT_ACCEPTING)
        self._process_exit.limit(DRAIN_AT_ONCE_S)
        run_and_exit(self._run_exit)

    def _run_exit(self) -> int:
        self._process_exit.run()
        return 0

    def _dump_stacks(self, number: int, frame: FrameType | None) -> None:
        """USR2: log the stack of every greenlet. The arbiter sends USR2 only after a missed deadline."""
        from gserver.worker.stack_dump import describe_stacks

        stacks, deadline = describe_stacks(self._connections(), frame), self._context.slot.deadline
        # Somebody may wait for them at the control socket. Sending one message never blocks.
        self._context.channel.send(STACKS, [stacks[:MAX_STACKS]])
        if deadline is not None and time.monotonic() >= deadline:
            log.critical("Worker missed its heartbeat deadline (pid: %d)\n%s", self.pid, stacks)
        else:
            log.warning("Stacks of the worker, requested by USR2 (pid: %d)\n%s", self.pid, stacks)

    def _abort(self, number: int, frame: FrameType | None) -> None:
        """ABRT from the arbiter, after a missed deadline: call the hook, and dump core."""
        self._hooks.call("worker_abort", self)
        logs.finish()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.abort()


def _call_within(stops: Sequence[Callable[[], object]], seconds: float) -> None:
    """Call the services' stop(), each in its own greenlet; log exceptions, kill what does not return in time."""
    import gevent

    def call(stop: Callable[[], object]) -> None:
        try:
            stop()
        except gevent.GreenletExit:
            raise
        except BaseException:
            log.exception("stop() of the service failed")

    greenlets = [gevent.spawn(call, stop) for stop in stops]
    gevent.joinall(greenlets, seconds)
    late = [greenlet for greenlet in greenlets if not greenlet.dead]
    for greenlet in late:
        log.error("stop() of the service did not return within %.3g s and is killed", seconds)
        greenlet.kill(block=False)
    gevent.joinall(late, STOP_KILL_S)


def be_killed_first(context: WorkerContext) -> None:
    """Apply worker_oom_score_adj to this process, so that the kernel does not kill the arbiter when memory runs out."""
    by = context.settings.worker_oom_score_adj
    failure = raise_above(context.server.pid, by) if by else None
    if failure is not None:
        log.warning("%s (pid: %d)", failure, os.getpid())


def report_failure(channel: Channel, reason: str) -> None:
    """Send the arbiter the reason why this process cannot start."""
    channel.send(FAILED, [" ".join(reason.split())[:MAX_REASON]])


def report_import_failure(channel: Channel, text: str, error: BaseException | None) -> None:
    """Log the exception of an application that cannot be imported, and send the arbiter the reason.

    Args:
        text: of the application.
    """
    log.error("%r cannot be imported", text, exc_info=error)
    reason = "" if error is None else f": {described(error)}"
    report_failure(channel, f"{text!r} cannot be imported{reason}")


def load(settings: Settings, applications: Loadable[Loaded]) -> Loaded:
    """Monkey-patch, and import the applications. ConfigError, or what their load() raises."""
    if settings.patch:
        from gevent import monkey

        if settings.tls_of_listeners():  # gserver.tls.contexts allows for it
            warnings.filterwarnings("ignore", "Monkey-patching ssl after ssl", monkey.MonkeyPatchWarning)
        patch_all()
    for variable in settings.raw_env:
        name, _, value = variable.partition("=")
        os.environ[name] = value
    enter(settings.chdir)
    importlib.invalidate_caches()  # a new release may be a folder with the same name and time of change
    if settings.chdir not in sys.path:
        sys.path.insert(0, settings.chdir)
    return applications.load()


def patch_all() -> None:
    """Call gevent's patch_all(), with the metadata of the installed distributions read only once.

    gevent looks for plugins in each of 25 steps, and reads the metadata of all distributions each time.
    """
    from importlib import metadata

    from gevent import monkey

    original = metadata.entry_points
    metadata.entry_points = metadata.entry_points().select
    try:
        monkey.patch_all()
    finally:
        metadata.entry_points = original


def apply_settings(served: Any, settings: Settings, listeners: Sequence[Listener] = ()) -> None:
    """Apply the settings to the application. ConfigError if they do not fit, or its codec is not valid.

    Args:
        listeners: those that serve the application, with settings of their own.
    """
    if hasattr(served, "codec"):
        check_made_codec(served.codec)
    for each in [settings.for_listener(listener) for listener in listeners] or [settings]:
        check_handshake_settings(served, each)
    if settings.max_message_size:
        limit_messages(served, settings.max_message_size)


def start_offload(settings: Settings, modules: Sequence[str], cells: Cells | None = None) -> Pools:
    """Start the pools of gserver.offload; ConfigError if a process cannot be started."""
    is_used = "gserver.offload" in sys.modules  # otherwise its threads start with the first call, if one comes
    from gserver.offload import pools

    sizes = pools.PoolSizes(
        settings.offload_threads, settings.offload_processes, settings.offload_queue, settings.offload_max_tasks
    )
    started = pools.start(sizes, cells)
    if is_used:
        started.start_threads()
    started.start_processes(modules, settings.daemon, settings.ready_timeout or None)
    return started


def start_bus(settings: Settings, channel: Channel, cells: Cells) -> tuple[Bus, bool]:
    """Make the bus of gserver.bus; return it, and whether the application has imported it. ConfigError for its URL."""
    is_used = "gserver.bus" in sys.modules  # otherwise it connects with the first call, if one comes
    from gserver.bus import worker_bus

    return worker_bus.start(settings.bus_queue, cells, lambda: channel.send(LINKS), settings.bus), is_used


def check_handshake_settings(served: Any, settings: Settings) -> None:
    """ConfigError for TLS or proxy_protocol with a bare handler: it gets the raw socket, so they have no effect."""
    if hasattr(served, "codec"):
        return
    for name, value, off in (("certfile", settings.certfile, None), ("proxy_protocol", settings.proxy_protocol, "off")):
        if value != off:
            raise ConfigError(f"setting {name} is {value!r}, but {served!r} is a bare handler: it must be a service")


def limit_messages(served: Any, max_bytes: int) -> None:
    """Set max_bytes of the application's codec; ConfigError for a bare handler, or if the codec has no max_bytes."""
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
    except OSError:  # no descriptor is left; the next heartbeat tries again
        return 0
