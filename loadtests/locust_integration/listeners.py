"""Connects a recording to Locust: command-line options, reports of workers, and the file that is written at the end.

Importing this module registers its listeners with Locust's global events. tcp_user.py imports it, so that every Locust
file with a TcpUser records. Each report that a worker sends to its master contains what the worker has recorded. At the
end the master requests a last report from each worker and waits for it, because Locust itself waits only half a second.
The recording names each worker without a last report. Seconds of a recording are seconds of the master's clock; workers
request the time from the master.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from locust import events
from locust.env import Environment

from gserver.codecs import CODECS
from loadtests.client.connection import ClientConnection
from loadtests.client.source_addresses import loopback_sources, parse_sources
from loadtests.exit_status import EXIT_USAGE
from loadtests.host import kernel_counters
from loadtests.host.environment import raise_nofile_limit
from loadtests.host.scheduler_slice import ask_for_short_slices
from loadtests.locust_integration import compat
from loadtests.locust_integration.compat import LocustArgumentParser, MasterRunner, Message, WorkerRunner
from loadtests.locust_integration.recorder import RECORDER, two_digits
from loadtests.locust_integration.worker_join import ROSTER, mark_lost
from loadtests.recording.clock_offset import Reading
from loadtests.recording.recording import TASK, Recording, failures
from loadtests.recording.swarm_membership import title
from loadtests.results.store import write_whole
from loadtests.units import NS_IN_S
from loadtests.url import parse_host

__all__ = ["wait_for_clock"]

HEALTH_STEP_S = 0.05
# Short, so that no send waits for a flush: 250 exchanges take 2 ms in a process that does other work between flushes.
FLUSH_EVERY_S = 0.05
REPORT_KEY = "gserver_recording"
CLOCK, LAST_REPORT = "gserver_clock", "gserver_last_report"
# This many clock readings are taken before anything is recorded, then one every READINGS_EVERY_S.
FIRST_READINGS, FIRST_READINGS_EVERY_S, READINGS_EVERY_S = 10, 0.01, 2.0
CLOCK_TIMEOUT_S = 5.0
# How long to wait for the last report of a worker, beyond the time that its users need to stop.
REPORT_TIMEOUT_S = 10.0
# If waiting for last reports takes longer than this, a line is printed.
NOTICE_AFTER_S = 2.0
# Workers that share one core stop their users at this rate, and send their last report after the last close.
USERS_STOPPED_PER_S = 2000
# A worker reports every three seconds, so the figures of a master are complete up to this many seconds ago.
REPORTED_S = 4

_is_clock_known = Event()
_has_sent_last_report = Event()

compat.write_last_row_of_csv()
compat.cache_default_arguments()


def wait_for_clock() -> None:
    """Wait until this process knows the run's clock, for five seconds at most."""
    _is_clock_known.wait(CLOCK_TIMEOUT_S)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    """Add options to Locust's command line; those that change the load are also in the form of its web UI."""
    add = parser.add_argument
    add("--rate", type=float, default=1.0, help="Tasks a second of each TCP user; 0: each as soon as the last one ends")
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
    # Locust sets its timer for --run-time next. The loop's clock is still that of before the imports, and without this
    # update the run would be shorter by the time that they took.
    gevent.get_hub().loop.update_now()
    compat.prepare_stop()
    compat.round_response_times(two_digits)
    _choose_sources(environment)
    gevent.spawn(_watch_health)
    gevent.spawn(_flush_regularly)
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.register_message(CLOCK, _read_clock)
        runner.register_message(LAST_REPORT, _stop_and_report, concurrent=True)
        gevent.spawn(_compare_clocks, runner)
        return
    _is_clock_known.set()
    if isinstance(runner, MasterRunner):
        runner.register_message(CLOCK, _send_clock)
    progress = getattr(environment.parsed_options, "progress", "")
    if progress:
        gevent.spawn(_write_progress, Path(progress), REPORTED_S if isinstance(runner, MasterRunner) else 1)


def _choose_sources(environment: Environment) -> None:
    """Set --source-addresses where it is not given; a wrong address ends this process with a line that names it."""
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
def _prepare_test(environment: Environment, **_: Any) -> None:
    """Send successes to Locust in batches, unless another listener needs an event for each request."""
    _has_sent_last_report.clear()
    ROSTER.is_ending = False
    RECORDER.is_batched = not compat.has_other_request_listeners(environment)


@events.user_error.add_listener
def _count_user_error(exception: BaseException, **_: Any) -> None:
    RECORDER.failed(TASK, time.monotonic_ns(), type(exception).__name__, str(exception))


# Health, and Locust's statistics


def _watch_health() -> None:
    """Record once a second: open sockets, CPU time, and by how much the latest of many short sleeps was late."""
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
        "sockets": ClientConnection.open,
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
    with contextlib.suppress(OSError, KeyError):  # this kernel does not count them
        health |= {"namespace": kernel_counters.namespace(), "retransmits": kernel_counters.retransmits()}
    return health


def _users() -> int:
    """Users that run in this process; 0 on a master, which has only a count over all its workers."""
    runner = RECORDER.environment.runner if RECORDER.environment is not None else None
    return 0 if runner is None or isinstance(runner, MasterRunner) else runner.user_count


def _flush_regularly() -> None:
    while True:
        gevent.sleep(FLUSH_EVERY_S)
        RECORDER.flush()


def _write_progress(path: Path, behind_s: int) -> None:
    while True:
        gevent.sleep(1)
        RECORDER.flush()  # so that the last whole second is complete
        line = json.dumps(progress_of(RECORDER.merged, RECORDER.now_s() - behind_s))
        with path.open("a") as file:
            file.write(line + "\n")


def progress_of(recording: Recording, second: int) -> dict[str, float]:
    """The progress line of one second; failures are counted from the start of the test."""
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
    """Complete the statistics before Locust prints them; a master first waits for its workers' last reports.

    On a worker all users have stopped by now.
    """
    RECORDER.flush()
    if isinstance(environment.runner, MasterRunner):
        _await_last_reports(environment.runner)


# Reports


@events.report_to_master.add_listener
def _report(data: dict[str, Any], **_: Any) -> None:
    """Registered before Locust's own listener, which therefore reports the statistics that this has just fed."""
    data[REPORT_KEY] = RECORDER.report(_has_sent_last_report.is_set())


@events.worker_report.add_listener
def _merge(client_id: str, data: dict[str, Any], **_: Any) -> None:
    if REPORT_KEY in data:
        RECORDER.merged.merge_report(data[REPORT_KEY], ROSTER.processes.get(client_id))


def _await_last_reports(runner: MasterRunner) -> None:
    """Request a last report from every live worker, and wait for all of them or until the time is up."""
    ROSTER.is_ending = True
    runner.send_message(LAST_REPORT)
    stopping_s = (runner.environment.stop_timeout or 0) + max(
        RECORDER.merged.sockets().values(), default=0
    ) / USERS_STOPPED_PER_S
    began_s, is_noticed = time.monotonic(), False
    while (awaited := _awaited(runner)) and time.monotonic() - began_s < stopping_s + REPORT_TIMEOUT_S:
        if not is_noticed and time.monotonic() - began_s > NOTICE_AFTER_S:
            is_noticed = True
            ROSTER.notice(f"waiting for the last report of {', '.join(map(title, awaited))}")
        gevent.sleep(0.05)
    for client_id in ROSTER.processes:
        if not _is_final(client_id):
            mark_lost(client_id)


def _awaited(runner: MasterRunner) -> list[str]:
    """The processes of live workers that have not sent their last report."""
    live = compat.live_workers(runner)
    return [ROSTER.processes[each] for each in live if each in ROSTER.processes and not _is_final(each)]


def _is_final(client_id: str) -> bool:
    report = RECORDER.merged.reports.get(ROSTER.processes.get(client_id, ""))
    return report is not None and bool(report["final"])


def _stop_and_report(environment: Environment, msg: Message, **_: Any) -> None:
    """On a worker: stop the users, then report what they have recorded. Locust 2.46 passes both by position."""
    runner = environment.runner
    assert isinstance(runner, WorkerRunner)
    runner.stop()
    _has_sent_last_report.set()
    compat.send_report(runner)


# Clocks


def _compare_clocks(runner: WorkerRunner) -> None:
    """On a worker: request the master's time, ten times in the first tenth of a second, then every two seconds."""
    while True:
        runner.send_message(CLOCK, {"sent_ns": time.monotonic_ns()})
        gevent.sleep(FIRST_READINGS_EVERY_S if RECORDER.clock.readings < FIRST_READINGS else READINGS_EVERY_S)


def _send_clock(environment: Environment, msg: Message, **_: Any) -> None:
    """On the master: reply with its time."""
    data = {**msg.data, "other_ns": time.monotonic_ns()}
    assert isinstance(environment.runner, MasterRunner)
    environment.runner.send_message(CLOCK, data, msg.node_id)


def _read_clock(msg: Message, **_: Any) -> None:
    RECORDER.clock.add(Reading(**msg.data, received_ns=time.monotonic_ns()))
    if RECORDER.clock.readings >= FIRST_READINGS:
        _is_clock_known.set()


# The end


@events.init.add_listener
def _write_at_the_end(environment: Environment, **_: Any) -> None:
    """Write on the event quit: the last reports of workers arrive between quitting and quit."""
    path = getattr(environment.parsed_options, "recording", "")
    otherwise = getattr(environment.parsed_options, "recording_otherwise", "")
    if isinstance(environment.runner, WorkerRunner):
        events.quit.add_listener(lambda **_: _report_unrequested(environment.runner))  # type: ignore[no-untyped-call]
    elif path:
        events.quit.add_listener(lambda **_: _write(path, otherwise))  # type: ignore[no-untyped-call]


def _report_unrequested(runner: WorkerRunner) -> None:
    """Send the last report of a worker that something other than its master ends, a signal for example."""
    if not _has_sent_last_report.is_set():
        _has_sent_last_report.set()
        compat.send_report(runner)


def _write(path: str, otherwise: str) -> None:
    """Write the recording to the first of the two files that can be written."""
    RECORDER.flush()
    text = json.dumps(RECORDER.merged.to_json())
    try:
        write_whole(Path(path), text)
    except OSError:
        if not otherwise:
            raise
        write_whole(Path(otherwise), text)
