"""Ties a recording to Locust: command-line options, the reports of workers, and the file at the end.

Importing this module registers the listeners, once, with Locust's global events. tcp_user.py imports it, so that any
locustfile with a TcpUser records. Workers send what they recorded to the master with each of Locust's reports. At the
end the master requests the last report of each worker and waits for it, because Locust itself waits only half a second
for late reports. The recording names each worker that did not send its last report. Seconds of a recording are those of
the master's clock, which the workers request from it.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from gevent.event import Event
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

import loadtests.locust_integration.locust_csv  # noqa: F401  # writes Locust's files to their end
from gserver.codecs import CODECS
from loadtests.client.connection import Wire
from loadtests.client.dialer import loopback_sources, parse_sources
from loadtests.exit_status import EXIT_USAGE
from loadtests.host import kernel_counters
from loadtests.host.environment import raise_nofile_limit
from loadtests.host.scheduler_slice import ask_for_short_slices
from loadtests.locust_integration.recorder import RECORDER, two_digits
from loadtests.locust_integration.worker_join import ROSTER, miss
from loadtests.recording.clock_offset import Reading
from loadtests.recording.recording import TASK, Recording, failures
from loadtests.recording.swarm_membership import title
from loadtests.results.store import write_whole
from loadtests.url import parse_host

__all__ = ["wait_for_clock"]

HEALTH_STEP_S = 0.05
# So little at a time that no send waits for it: a second of it at once takes three milliseconds.
FLUSH_EVERY_S = 0.25
REPORT_KEY = "gserver_recording"
CLOCK, LAST_REPORT = "gserver_clock", "gserver_last_report"
NS_IN_S = 10**9
# The clocks are compared so often before anything is recorded, then now and again.
FIRST_READINGS, FIRST_READINGS_EVERY_S, READINGS_EVERY_S = 10, 0.01, 2.0
CLOCK_PATIENCE_S = 5.0
# For a worker's last report, beyond what its users may take to stop.
REPORT_PATIENCE_S = 10.0
# A wait for a last report that is longer is worth a line.
NOTICED_AFTER_S = 2.0
# Workers that share one core stop their users at this rate, and say their last when all have closed.
USERS_STOPPED_PER_S = 2000
# A worker reports every three seconds: what a master shows is from before that.
REPORTED_S = 4

_has_clock = Event()
_has_said_last = Event()


def wait_for_clock() -> None:
    """Until it is known in which second of the run's clock something happens here."""
    _has_clock.wait(CLOCK_PATIENCE_S)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    """Arguments of Locust's own command line; those that change the load are in the form of its web UI too."""
    add = parser.add_argument
    add("--rate", type=float, default=1.0, help="Tasks a second of each TCP user; 0 is as fast as it is answered")
    add("--depth", type=int, default=1, help="With --rate 0: messages in flight on each connection")
    add("--payload", type=int, default=64, help="Bytes of an EchoUser's message")
    add("--message", default="", help="What a MessageUser sends; \\n, \\r, \\t, \\0, \\\\ and \\xHH are understood")
    add("--codec", default="lines", help=f"How a MessageUser's messages are framed: {', '.join(CODECS)}")
    add("--expect", default="", help="The reply a MessageUser expects, written as --message is; default: any")
    add("--source-addresses", default="", help="Where connections come from: FIRST-LAST, or several with commas")
    add("--tls-ca", default="", help="With a host tls://...: verify its certificate against this file")
    add("--recording", default="", help="Write what was recorded to this file", include_in_web_ui=False)
    add("--recording-otherwise", default="", help="Or to this one, if there is no room", include_in_web_ui=False)
    add("--progress", default="", help="Append a line a second to this file", include_in_web_ui=False)


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    raise_nofile_limit()
    ask_for_short_slices()
    RECORDER.environment = environment
    # Locust is about to set its timer for --run-time, and the loop's clock stands where the imports began: without this
    # a run is shorter by what they took.
    gevent.get_hub().loop.update_now()
    # When it stops a test Locust looks up who asked it to, which the first time reads the sources of all modules: 40 ms
    # in which the last exchanges of every user would wait.
    inspect.getframeinfo(inspect.stack()[0][0])
    locust.stats.bucket_response_time = two_digits  # type: ignore[assignment]  # floats are welcome there
    _choose_sources(environment)
    gevent.spawn(_watch_health)
    gevent.spawn(_flush_regularly)
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.register_message(CLOCK, _read_clock)
        runner.register_message(LAST_REPORT, _say_last, concurrent=True)
        gevent.spawn(_compare_clocks, runner)
        return
    _has_clock.set()
    if isinstance(runner, MasterRunner):
        runner.register_message(CLOCK, _tell_clock)
    progress = getattr(environment.parsed_options, "progress", "")
    if progress:
        gevent.spawn(_show_progress, Path(progress), REPORTED_S if isinstance(runner, MasterRunner) else 1)


def _choose_sources(environment: Environment) -> None:
    """Where connections come from, if nobody said so; a wrong address ends this process with a line that names it."""
    options = environment.parsed_options
    given = getattr(options, "source_addresses", "")
    try:
        parse_sources(given)
        if options is not None and not given and not isinstance(environment.runner, WorkerRunner):
            host = parse_host(environment.host)[0] if environment.host else ""
            options.source_addresses = ",".join(loopback_sources(host, options.num_users or 0))
    except ValueError as error:
        if "source" in str(error):
            print(f"loadtests: --source-addresses: {error}", file=sys.stderr)
            sys.exit(EXIT_USAGE)


@events.test_start.add_listener
def _see_who_listens(environment: Environment, **_: Any) -> None:
    """Locust's own listener is one; whoever adds another wants to hear of each request."""
    _has_said_last.clear()
    ROSTER.is_ending = False
    RECORDER.is_batched = len(environment.events.request._handlers) <= 1


@events.user_error.add_listener
def _count_what_users_raise(exception: BaseException, **_: Any) -> None:
    RECORDER.failed(TASK, time.monotonic_ns(), type(exception).__name__, str(exception))


# Health, and Locust's statistics


def _watch_health() -> None:
    """Each second: the sockets that are open, the processor time used, and the worst lateness of a short sleep."""
    wait_for_clock()
    worst_ns, second = 0, RECORDER.now_s()
    while True:
        due_ns = time.monotonic_ns() + int(HEALTH_STEP_S * NS_IN_S)
        gevent.sleep(HEALTH_STEP_S)
        worst_ns = max(worst_ns, time.monotonic_ns() - due_ns)
        now_s = RECORDER.now_s()
        if now_s != second:
            RECORDER.healthy(second, _health(worst_ns))
            worst_ns, second = 0, now_s


def _health(lag_ns: int) -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    health: dict[str, float] = {
        "sockets": Wire.open,
        "users": _users(),
        "cpu_s": used.ru_utime + used.ru_stime,
        "lag_ns": lag_ns,
        "asked_per_s": RECORDER.asked_per_s,
        **RECORDER.lateness(),
    }
    if (waited_s := kernel_counters.waited()) is not None:
        health["waited_s"] = waited_s
    if RECORDER.clock.readings:
        health["clock_offset_ns"] = RECORDER.clock.offset_ns
        health["clock_uncertainty_ns"] = RECORDER.clock.uncertainty_ns
    with contextlib.suppress(OSError, KeyError):  # not counted here
        health |= {"namespace": kernel_counters.namespace(), "retransmits": kernel_counters.retransmits()}
    return health


def _users() -> int:
    """That run in this process: a master's own count is of all its workers."""
    runner = RECORDER.environment.runner if RECORDER.environment is not None else None
    return 0 if runner is None or isinstance(runner, MasterRunner) else runner.user_count


def _flush_regularly() -> None:
    while True:
        gevent.sleep(FLUSH_EVERY_S)
        RECORDER.flush()


def _show_progress(path: Path, behind_s: int) -> None:
    while True:
        gevent.sleep(1)
        RECORDER.flush()  # of the second that is over, all
        line = json.dumps(progress_of(RECORDER.merged, RECORDER.now_s() - behind_s))
        with path.open("a") as file:
            file.write(line + "\n")


def progress_of(recording: Recording, second: int) -> dict[str, float]:
    """One second, as a progress line tells it; failures are those so far."""
    cell = recording.total(recording.exchange_series(), second, second + 1)
    return {
        "second": second,
        "sockets": sum(
            list(health.values())[-1]["sockets"]
            for process, health in recording.health.items()
            if not recording.has_left(process)
        ),
        "exchanges": cell.done,
        "p99_ns": cell.latency.all.percentiles([99]).get(99, 0),
        "failures": failures(recording.outcomes()),
    }


@events.test_stop.add_listener
def _flush_at_the_end(environment: Environment, **_: Any) -> None:
    """Before Locust shows its statistics. A worker's users have stopped by now, and the master's workers are asked."""
    RECORDER.flush()
    if isinstance(environment.runner, MasterRunner):
        _await_last_reports(environment.runner)


# Reports


@events.report_to_master.add_listener
def _report(data: dict[str, Any], **_: Any) -> None:
    """Registered before Locust's own listener, which therefore reports what this has fed to its statistics."""
    data[REPORT_KEY] = RECORDER.report(_has_said_last.is_set())


@events.worker_report.add_listener
def _merge(client_id: str, data: dict[str, Any], **_: Any) -> None:
    if REPORT_KEY in data:
        RECORDER.merged.merge_report(data[REPORT_KEY], ROSTER.processes.get(client_id))


def _await_last_reports(runner: MasterRunner) -> None:
    """Ask every worker that still lives for its last report, and wait until all have come or their time is up."""
    ROSTER.is_ending = True
    runner.send_message(LAST_REPORT)
    stopping_s = (runner.environment.stop_timeout or 0) + max(
        RECORDER.merged.sockets().values(), default=0
    ) / USERS_STOPPED_PER_S
    began_s, is_noticed = time.monotonic(), False
    while (awaited := _awaited(runner)) and time.monotonic() - began_s < stopping_s + REPORT_PATIENCE_S:
        if not is_noticed and time.monotonic() - began_s > NOTICED_AFTER_S:
            is_noticed = True
            ROSTER.notice(f"waiting for the last report of {', '.join(map(title, awaited))}")
        gevent.sleep(0.05)
    for client_id in ROSTER.processes:
        if not _is_final(client_id):
            miss(client_id)


def _awaited(runner: MasterRunner) -> list[str]:
    """The processes of workers that live and have not sent their last report."""
    living = [client.id for client in runner.clients.all if client.state != STATE_MISSING]
    return [ROSTER.processes[each] for each in living if each in ROSTER.processes and not _is_final(each)]


def _is_final(client_id: str) -> bool:
    report = RECORDER.merged.reports.get(ROSTER.processes.get(client_id, ""))
    return report is not None and bool(report["final"])


def _say_last(environment: Environment, msg: Message, **_: Any) -> None:
    """On a worker: stop the users, and report what they recorded by then. Locust 2.46 passes both by position."""
    runner = environment.runner
    assert isinstance(runner, WorkerRunner)
    runner.stop()
    _has_said_last.set()
    runner._send_stats()


# Clocks


def _compare_clocks(runner: WorkerRunner) -> None:
    """On a worker: ask the master what time it is, again and again."""
    while True:
        runner.send_message(CLOCK, {"sent_ns": time.monotonic_ns()})
        gevent.sleep(FIRST_READINGS_EVERY_S if RECORDER.clock.readings < FIRST_READINGS else READINGS_EVERY_S)


def _tell_clock(environment: Environment, msg: Message, **_: Any) -> None:
    """On the master."""
    data = {**msg.data, "other_ns": time.monotonic_ns()}
    assert isinstance(environment.runner, MasterRunner)
    environment.runner.send_message(CLOCK, data, msg.node_id)


def _read_clock(msg: Message, **_: Any) -> None:
    RECORDER.clock.take(Reading(**msg.data, received_ns=time.monotonic_ns()))
    if RECORDER.clock.readings >= FIRST_READINGS:
        _has_clock.set()


# The end


@events.init.add_listener
def _write_at_the_end(environment: Environment, **_: Any) -> None:
    """On quit and not on quitting: the workers' last reports arrive in between."""
    path = getattr(environment.parsed_options, "recording", "")
    otherwise = getattr(environment.parsed_options, "recording_otherwise", "")
    if isinstance(environment.runner, WorkerRunner):
        events.quit.add_listener(lambda **_: _say_last_unasked(environment.runner))  # type: ignore[no-untyped-call]
    elif path:
        events.quit.add_listener(lambda **_: _write(path, otherwise))  # type: ignore[no-untyped-call]


def _say_last_unasked(runner: WorkerRunner) -> None:
    """A worker that was told to end by somebody else than its master."""
    if not _has_said_last.is_set():
        _has_said_last.set()
        runner._send_stats()


def _write(path: str, otherwise: str) -> None:
    """The recording, to the first of the two that can be written."""
    RECORDER.flush()
    text = json.dumps(RECORDER.merged.to_json())
    try:
        write_whole(Path(path), text)
    except OSError:
        if not otherwise:
            raise
        write_whole(Path(otherwise), text)
