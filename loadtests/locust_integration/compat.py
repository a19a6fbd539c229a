"""Everything here that depends on parts of Locust which Locust does not document.

Other modules use only what is documented: `locust.User`, `task`, `events`, `LoadTestShape`, `locust.env.Environment`
and `locust.web.WebUI`. For anything else they call a function of this module. All of it was seen on Locust 2.46.1 and
2.47.0; check each section when Locust changes. Importing this module changes nothing in Locust: its functions do.

One attribute is used elsewhere: tcp_user.py reads and sets `User._state` itself, because a call for each exchange would
cost more than the attribute.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import locust.stats
from locust import LoadTestShape, User, argument_parser, runners
from locust import __version__ as locust_version
from locust.argument_parser import LocustArgumentParser
from locust.dispatch import UsersDispatcher
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, Runner, WorkerRunner
from locust.stats import StatsEntry
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_WAITING
from locust.util.load_locustfile import load_locustfile as import_locustfile

__all__ = [
    "CLIENT_READY",
    "QUIT",
    "USER_RUNNING",
    "USER_WAITING",
    "LocustArgumentParser",
    "MasterRunner",
    "Message",
    "Runner",
    "WorkerRunner",
    "acknowledge",
    "add_successes",
    "announce_ready",
    "cache_default_arguments",
    "close_worker",
    "count_users_of_one_class_quickly",
    "filter_master_messages",
    "forget_worker",
    "has_other_request_listeners",
    "has_started_all_users",
    "has_worker",
    "is_accepted",
    "is_answered",
    "is_swarming",
    "keep_users_in_place",
    "live_workers",
    "load_locustfile",
    "locust_version",
    "mark_accepted",
    "mark_answered",
    "master_address",
    "missing_workers",
    "never_miss_the_master",
    "prepare_stop",
    "replace_join",
    "required_options",
    "round_response_times",
    "send_report",
    "set_worker_silence_s",
    "wait_for_answer",
    "worker_ids",
    "worker_silence_s",
    "write_last_row_of_csv",
]

#: Types of Locust's own messages: a worker that is ready to join, and an end that either side announces.
CLIENT_READY, QUIT = "client_ready", "quit"
#: How long close_worker() tries to send what is still queued.
LINGER_MS = 200

# Users. A user that waits may be killed by Locust at any time; a running one finishes its task first.

#: Values of `User._state`.
USER_RUNNING, USER_WAITING = LOCUST_STATE_RUNNING, LOCUST_STATE_WAITING


# Locust files and the command line


def load_locustfile(file: str) -> tuple[dict[str, type[User]], list[LoadTestShape]]:
    """Import a Locust file as Locust does; return its user classes by name, and its load shapes.

    Locust has no documented way to check a file without starting a test. Raises whatever the file raises.
    """
    return import_locustfile(file)


def required_options() -> list[str]:
    """The options of Locust's command line without a default; Locust has no such list."""
    parser = argument_parser.get_parser(default_config_files=[])
    return [action.option_strings[0] for action in parser._actions if action.required]


def cache_default_arguments() -> None:
    """Make Locust compute its default arguments once.

    A worker needs these constants for each of its 70 options in each message that starts users, and builds a whole
    parser each time. Its event loop stands still meanwhile: for 0.1 to 0.2 s, and for seconds on a busy host.
    """
    argument_parser.default_args_dict = functools.cache(argument_parser.default_args_dict)


# Events and statistics


def has_other_request_listeners(environment: Environment) -> bool:
    """Whether anything beside Locust's own statistics listens to events.request; an event does not publish that."""
    return len(environment.events.request._handlers) > 1


def round_response_times(rounded: Callable[[float], float]) -> None:
    """Replace the function that rounds a response time in ms to its bucket; Locust's own rounds to at least 1 ms."""
    locust.stats.bucket_response_time = rounded  # type: ignore[assignment]  # floats work there


def add_successes(
    environment: Environment,
    name: str,
    request_type: str,
    *,
    by_second: Mapping[int, int],
    now_s: int,
    size: int,
    times_ms: Mapping[float, int],
    least_ms: float,
    most_ms: float,
    total_ms: float,
) -> None:
    """Merge successful requests into Locust's entry and its total, as Locust merges the report of a worker.

    The documented way is an event for each request, and events.request.fire() takes longer than the rest of an
    exchange.

    Args:
        by_second: second of a clock -> requests in it; now_s: the present second of that clock.
        size: bytes of all responses.
        times_ms: bucket of response times -> requests in it.
        least_ms, most_ms, total_ms: lowest and highest response time, and the sum of all.
    """
    stats = environment.stats
    entry: Any = StatsEntry(stats, name, request_type)  # its annotations have no fractions of milliseconds
    entry.num_requests = sum(by_second.values())
    entry.total_content_length = size
    entry.last_request_timestamp = time.time()
    ahead_s = entry.last_request_timestamp - now_s
    for second, count in by_second.items():
        entry.num_reqs_per_sec[int(second + ahead_s)] += count
    entry.min_response_time, entry.max_response_time, entry.total_response_time = least_ms, most_ms, total_ms
    for bucket, count in times_ms.items():
        entry.response_times[bucket] += count
    stats.entries[(name, request_type)].extend(entry)
    stats.total.extend(entry)


class _WholeCsv(locust.stats.StatsCSVFileWriter):
    """Locust's writer of --csv files, which writes once more when it closes them.

    Locust's own writes once a second and closes the files without the last second. By then Locust has printed its table
    of the same statistics.
    """

    def close_files(self) -> None:
        """Called once, when Locust ends."""
        files = (
            (self.requests_csv_filehandle, self.requests_csv_writer, self.requests_csv),
            (self.failures_csv_filehandle, self.failures_csv_writer, self.failures_csv),
            (self.exceptions_csv_filehandle, self.exceptions_csv_writer, self.exceptions_csv),
        )
        for file, writer, write in files:
            file.seek(0)
            write(writer)
            file.truncate()
        self._stats_history_data_rows(self.stats_history_csv_writer, time.time())
        super().close_files()

    def stats_writer(self) -> None:
        """Write once a second, until the files are closed. Locust's own raises then, if its process still runs."""
        try:
            super().stats_writer()
        except ValueError:
            if not self.requests_csv_filehandle.closed:
                raise


def write_last_row_of_csv() -> None:
    """Make --csv files contain the last second of a test."""
    locust.stats.StatsCSVFileWriter = _WholeCsv  # type: ignore[misc]


# Any runner


def is_swarming(runner: Runner) -> bool:
    """Whether users are being started or run; Runner.state is not documented."""
    return runner.state in (runners.STATE_SPAWNING, runners.STATE_RUNNING)


def has_started_all_users(runner: Runner) -> bool:
    """Whether the runner has started as many users as it was ordered to."""
    return runner.spawning_completed if isinstance(runner, MasterRunner) else runner.state == runners.STATE_RUNNING


def prepare_stop() -> None:
    """Do now what the first Runner.stop() does: it looks up its caller, for which all sources are read.

    That takes 40 ms, during which the last exchanges of all users would have to wait.
    """
    inspect.getframeinfo(inspect.stack()[0][0])


def count_users_of_one_class_quickly() -> None:
    """Let Runner.user_classes_count return the number of users without a loop, while all are of one class.

    Locust looks at every user several times a second.
    """
    count_each: Any = Runner.__dict__["user_classes_count"].fget

    def count(runner: Runner) -> dict[str, int]:
        classes = runner.user_classes
        if len(classes) == 1 and is_swarming(runner):
            return {classes[0].__name__: runner.user_count}
        counts: dict[str, int] = count_each(runner)
        return counts

    Runner.user_classes_count = property(count)  # type: ignore[assignment, method-assign]


# The master's side of a worker


def filter_master_messages(is_for_locust: Callable[[MasterRunner, str, Message], bool]) -> None:
    """Call a function before Locust handles a message of a worker; Locust handles it only if that returns True.

    Locust lets any worker of its own version join at any time; a custom message cannot prevent that.
    """
    handle_message = MasterRunner.handle_message

    def handle(runner: MasterRunner, client_id: str, msg: Message) -> None:
        if is_for_locust(runner, client_id, msg):
            handle_message(runner, client_id, msg)

    MasterRunner.handle_message = handle  # type: ignore[method-assign, assignment]


def worker_ids(runner: MasterRunner) -> list[str]:
    """Ids of all workers that have joined, missing ones included."""
    return [client.id for client in runner.clients.all]


def live_workers(runner: MasterRunner) -> list[str]:
    """Ids of the workers that Locust does not count as missing."""
    return [client.id for client in runner.clients.all if client.state != runners.STATE_MISSING]


def missing_workers(runner: MasterRunner) -> list[str]:
    """Ids of the workers that have been silent for longer than worker_silence_s()."""
    return [client.id for client in runner.clients.missing]


def has_worker(runner: MasterRunner, client_id: str) -> bool:
    """Whether this worker has joined."""
    return client_id in runner.clients


def forget_worker(runner: MasterRunner, client_id: str) -> None:
    """Remove a worker; there is no documented way to."""
    del runner.clients[client_id]


def acknowledge(runner: MasterRunner, client_id: str) -> None:
    """Send what Locust sends to a worker that has joined; the worker stops waiting."""
    index = runner.get_worker_index(client_id)  # type: ignore[no-untyped-call]
    runner.send_message("ack", {"index": index}, client_id)


def worker_silence_s() -> int:
    """After how many seconds of silence Locust counts a worker as missing."""
    return runners.HEARTBEAT_LIVENESS


def set_worker_silence_s(seconds: int) -> None:
    """Set worker_silence_s() for workers that send a heartbeat from now on; Locust has no option for it."""
    runners.HEARTBEAT_LIVENESS = seconds


class _AlwaysDispatching(UsersDispatcher):
    """Locust moves users between workers only while this attribute is false."""

    dispatch_in_progress = True


def keep_users_in_place(environment: Environment) -> None:
    """Do not move users between workers when a worker joins, leaves or is lost; Locust has no option for it.

    A missing worker is never removed either: a minute after it is lost, Locust would start its users on the others.
    """
    environment.dispatcher_class = _AlwaysDispatching
    runners.HEARTBEAT_DEAD_INTERNAL = -math.inf  # type: ignore[assignment]


# The worker's side of its master


def replace_join(join: Callable[[WorkerRunner], None]) -> None:
    """Call a function in place of Locust's own WorkerRunner.connect_to_master(), which retries for five minutes."""
    WorkerRunner.connect_to_master = join  # type: ignore[method-assign]


def never_miss_the_master() -> None:
    """Turn off Locust's check for a silent master: it compares times of day, and the clock may be set during a run."""
    runners.MASTER_HEARTBEAT_TIMEOUT = math.inf  # type: ignore[assignment]


def master_address(runner: WorkerRunner) -> str:
    """HOST:PORT of the master, for messages."""
    return f"{runner.master_host}:{runner.master_port}"


def announce_ready(runner: WorkerRunner) -> None:
    """Send Locust's own request to join; its data is Locust's version."""
    runner.send_message(CLIENT_READY, locust_version)  # type: ignore[arg-type]


def is_answered(runner: WorkerRunner) -> bool:
    """Whether the master has acknowledged or refused this worker."""
    return runner.connection_event.is_set()


def wait_for_answer(runner: WorkerRunner, timeout_s: float) -> None:
    """Wait until is_answered(), for `timeout_s` at most."""
    runner.connection_event.wait(timeout_s)


def mark_answered(runner: WorkerRunner) -> None:
    """End wait_for_answer(), as Locust itself does for an acknowledgement."""
    runner.connection_event.set()


def is_accepted(runner: WorkerRunner) -> bool:
    """Whether this worker has joined."""
    return runner.connected


def mark_accepted(runner: WorkerRunner) -> None:
    """Let Locust send heartbeats and reports, as its own connect_to_master() does at its end."""
    runner.connected = True


def send_report(runner: WorkerRunner) -> None:
    """Send a report now; Locust sends one every three seconds."""
    runner._send_stats()


def close_worker(runner: WorkerRunner) -> None:
    """End the greenlets of a worker and close its socket, within 0.2 s.

    One of the greenlets reads from the socket, and would go on trying.
    """
    runner.greenlet.kill()
    runner.client.close(linger=LINGER_MS)  # type: ignore[no-untyped-call]
