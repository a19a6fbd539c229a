"""What ties a recording to Locust: command-line arguments, the workers' reports, and the file at the end.

Importing this registers the listeners, once, with Locust's global events; users.py does, so that any locustfile with a
TcpUser records. One recording belongs to each Locust process: workers hand theirs to the master with every report, the
master merges them, and writes them when it quits.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests.environment import raise_nofile_limit
from loadtests.recording import CUT_OFF, OK, Recording
from loadtests.results import write_whole

__all__ = ["RECORDER", "Recorder"]

HEALTH_STEP_S = 0.05
REPORT_KEY = "gserver_recording"
NS_IN_S = 10**9


class Recorder:
    """This process's recording, its open sockets, and what the last second looked like."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.merged = Recording()  # on the master: what has been reported, its own part included
        self.open_sockets = 0

    def collect(self) -> Recording:
        """Everything known to this process so far."""
        self.merged.merge(self.recording.take())
        return self.merged


RECORDER = Recorder()


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    """Arguments of Locust's own command line; --rate and --payload are in the form of its web UI too."""
    parser.add_argument(
        "--rate", type=float, default=1.0, help="Exchanges a second of each TCP user; 0 is as fast as it is answered"
    )
    parser.add_argument("--payload", type=int, default=64, help="Bytes of an EchoUser's message")
    parser.add_argument("--recording", default="", help="Write what was recorded to this file", include_in_web_ui=False)
    parser.add_argument("--progress", default="", help="Append a line a second to this file", include_in_web_ui=False)


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    raise_nofile_limit()
    # Locust is about to set its timer for --run-time, and the loop's clock stands where the imports began: without this
    # a run is shorter by what they took.
    gevent.get_hub().loop.update_now()
    locust.stats.bucket_response_time = three_digits  # type: ignore[assignment]  # floats are welcome there
    gevent.spawn(_watch_health)
    progress = getattr(environment.parsed_options, "progress", "")
    if progress and not isinstance(environment.runner, WorkerRunner):
        gevent.spawn(_show_progress, Path(progress))


def three_digits(response_time_ms: float) -> float:
    """Locust's own buckets are whole milliseconds below 100, in which a server that answers in 0.3 ms answers in 0."""
    return float(f"{response_time_ms:.3g}")


def _watch_health() -> None:
    """Each second: the sockets that are open, the processor time used, and the worst lateness of a short sleep."""
    process = f"{os.uname().nodename}-{os.getpid()}"
    worst_ns, second = 0, time.monotonic_ns() // NS_IN_S
    while True:
        due_ns = time.monotonic_ns() + int(HEALTH_STEP_S * NS_IN_S)
        gevent.sleep(HEALTH_STEP_S)
        now_ns = time.monotonic_ns()
        worst_ns = max(worst_ns, now_ns - due_ns)
        if now_ns // NS_IN_S > second:
            used = resource.getrusage(resource.RUSAGE_SELF)
            RECORDER.recording.health.setdefault(process, {})[second] = {
                "sockets": RECORDER.open_sockets,
                "cpu_s": used.ru_utime + used.ru_stime,
                "lag_ns": worst_ns,
            }
            worst_ns, second = 0, now_ns // NS_IN_S


def _show_progress(path: Path) -> None:
    while True:
        gevent.sleep(1)
        line = json.dumps(progress_of(RECORDER.collect(), time.monotonic_ns() // NS_IN_S - 1))
        with path.open("a") as file:
            file.write(line + "\n")


def progress_of(recording: Recording, second: int) -> dict[str, float]:
    """One second, as a progress line tells it; failures are those so far."""
    cell = recording.total(recording.exchange_series(), second, second + 1)
    outcomes = recording.outcomes()
    return {
        "second": second,
        "sockets": sum(list(health.values())[-1]["sockets"] for health in recording.health.values()),
        "exchanges": cell.outcomes[OK],
        "p99_ns": cell.service.percentiles([99]).get(99, 0),
        "failures": sum(count for outcome, count in outcomes.items() if outcome not in (OK, CUT_OFF)),
    }


@events.report_to_master.add_listener
def _report(data: dict[str, Any], **_: Any) -> None:
    data[REPORT_KEY] = RECORDER.recording.take()


@events.worker_report.add_listener
def _merge(data: dict[str, Any], **_: Any) -> None:
    if REPORT_KEY in data:
        RECORDER.merged.merge(data[REPORT_KEY])


@events.init.add_listener
def _write_at_the_end(environment: Environment, **_: Any) -> None:
    """On quit and not on quitting: the workers' last reports arrive in between."""
    path = getattr(environment.parsed_options, "recording", "")
    if path and not isinstance(environment.runner, WorkerRunner):
        events.quit.add_listener(lambda **_: _write(Path(path)))  # type: ignore[no-untyped-call]


def _write(path: Path) -> None:
    write_whole(path, json.dumps(RECORDER.collect().to_json()))
