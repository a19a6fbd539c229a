"""Lets workers join a Locust master, refuses those that do not fit, and notices those that are lost.

Locust alone accepts any worker at any time, compares only its own version, and moves users between workers when one
joins or leaves. listeners.py imports this module, so a swarm with a TcpUser checks each worker that joins. The load
shape calls await_workers(), after which no worker can join.

    worker -> master   gserver_worker with its identity, then Locust's client_ready
    master -> worker   gserver_welcome, then Locust's ack; or gserver_refused with the reason
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import gevent
from locust import events
from locust.env import Environment

import gserver
from loadtests.exit_status import EXIT_FAILURE, EXIT_USAGE
from loadtests.locust_integration import compat
from loadtests.locust_integration.compat import LocustArgumentParser, MasterRunner, Message, WorkerRunner
from loadtests.locust_integration.recorder import RECORDER
from loadtests.recording.swarm_membership import Identity, Roster, title
from loadtests.results.store import write_whole

__all__ = ["ROSTER", "await_workers", "is_worker_missing", "mark_lost"]

INTRODUCTION, WELCOME, REFUSED = "gserver_worker", "gserver_welcome", "gserver_refused"
PACKAGE = Path(__file__).parents[1]
LOAD_SHAPE = Path(__file__).with_name("load_shape.py")
# A worker sends its introduction again after this time: a master that was just ending loses messages.
JOIN_AGAIN_S = 5.0
# Longer than a short loss of the connection, which does no harm.
MASTER_SILENCE_S = 20
# Workers that join within this time of the last expected one take part: processes of one command join one by one.
SETTLED_S = 1.0
POLL_S = 0.1
# A Locust without loadtests reads no messages before this time, and would miss the one that ends it.
DISMISS_AFTER_S = 1.0

ROSTER = Roster()
_has_heartbeat = False  # of the master, since _watch_master() last looked

compat.never_miss_the_master()  # _watch_master() does, by the monotonic clock


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--roster", default="", help="Write the workers that have joined to this file", include_in_web_ui=False)
    add(
        "--master-timeout", type=float, default=300.0, help="Seconds in which a worker's master must answer",
        include_in_web_ui=False,
    )  # fmt: skip


# What is compared


def _identity(environment: Environment) -> Identity:
    return _identity_of(tuple(environment.parsed_locustfiles or ()))


@functools.cache
def _identity_of(files: tuple[str, ...]) -> Identity:
    """The identity of this process, with a digest of loadtests' source, which changes between releases."""
    own = _digest(sorted(PACKAGE.rglob("*.py")))
    versions = {
        "gserver": gserver.__version__,
        "loadtests": f"{gserver.__version__} ({own[:8]})",
        "locust": compat.locust_version,
    }
    paths = [Path(file) for file in files if Path(file).is_file() and Path(file).resolve() != LOAD_SHAPE]
    return Identity(versions, " and ".join(sorted(path.name for path in paths)), _digest(paths))


def _digest(paths: list[Path]) -> str:
    """Digest of the contents of files, independent of their names and order."""
    each = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256("".join(each).encode()).hexdigest()


# The worker


def _join(runner: WorkerRunner) -> None:
    """Join the master, or end this process with one line that gives the reason. Replaces Locust's own function."""
    address = compat.master_address(runner)
    timeout_s = getattr(runner.environment.parsed_options, "master_timeout", 300.0)
    replies: list[str] = []  # "" for a welcome, the reason for a refusal
    runner.register_message(WELCOME, lambda **_: replies.append(""))
    runner.register_message(REFUSED, functools.partial(_receive_refusal, runner, replies))
    identity = _identity(runner.environment)
    deadline = time.monotonic() + timeout_s
    while not compat.is_answered(runner):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            _give_up(runner, EXIT_FAILURE, f"no master of Locust answered at {address} within {timeout_s:g} s")
        runner.send_message(INTRODUCTION, {"process": RECORDER.process, **identity.to_json()})
        compat.announce_ready(runner)
        compat.wait_for_answer(runner, min(JOIN_AGAIN_S, left_s))
    if not replies:
        runner.send_message(compat.QUIT)
        why = f"the master at {address} has no loadtests, or another version; this worker has {identity.shown}"
        _give_up(runner, EXIT_USAGE, why)
    if replies[0]:
        _give_up(runner, EXIT_USAGE, f"refused by the master at {address}: {replies[0]}")
    compat.mark_accepted(runner)
    gevent.spawn(_watch_master, runner, address)


def _receive_refusal(runner: WorkerRunner, replies: list[str], msg: Message, **_: Any) -> None:
    """A worker that has joined receives one as well, if its master ends before the test."""
    if compat.is_accepted(runner):
        print(f"loadtests: {msg.data}", file=sys.stderr, flush=True)
        runner.environment.process_exit_code = EXIT_FAILURE
        return
    replies.append(str(msg.data))
    compat.mark_answered(runner)


def _give_up(runner: WorkerRunner, status: int, why: str) -> NoReturn:
    print(f"loadtests: {why}", file=sys.stderr, flush=True)
    compat.close_worker(runner)
    sys.exit(status)


@events.heartbeat_received.add_listener
def _note_heartbeat(**_: Any) -> None:
    global _has_heartbeat
    _has_heartbeat = True


def _watch_master(runner: WorkerRunner, address: str) -> None:
    """End this process if its master is silent for 20 s. Seconds in which this process did not run do not count."""
    global _has_heartbeat
    silent_s = 0
    while silent_s < MASTER_SILENCE_S:
        gevent.sleep(1)
        silent_s = 0 if _has_heartbeat else silent_s + 1
        _has_heartbeat = False
    print(f"loadtests: the master at {address} has been silent for {MASTER_SILENCE_S:g} s", file=sys.stderr, flush=True)
    runner.environment.process_exit_code = EXIT_FAILURE
    runner.quit()


# The master


def _is_for_locust(runner: MasterRunner, client_id: str, msg: Message) -> bool:
    """Whether Locust handles a message of a worker after this function."""
    if msg.type == INTRODUCTION:
        ROSTER.introduce(client_id, msg.data)
        return False
    if msg.type == compat.CLIENT_READY:
        return _is_new_member(runner, client_id, str(msg.data))
    return msg.type != compat.QUIT or _leaves(runner, client_id)


def _is_new_member(runner: MasterRunner, client_id: str, locust: str) -> bool:
    """Admit or refuse a worker that is ready; one that has joined already is only acknowledged again."""
    if compat.has_worker(runner, client_id):
        compat.acknowledge(runner, client_id)
        return False
    before = len(ROSTER.notices)
    why_not = ROSTER.admit(client_id, locust, _identity(runner.environment))
    for sentence in ROSTER.notices[before:]:
        print(f"loadtests: {sentence}", file=sys.stderr, flush=True)
    if not why_not:
        runner.send_message(WELCOME, None, client_id)
        return True
    if ROSTER.has_introduction(client_id):
        runner.send_message(REFUSED, why_not, client_id)  # type: ignore[arg-type]
    else:
        # A worker without loadtests logs the type of a message that it does not know.
        compat.acknowledge(runner, client_id)
        runner.send_message(f"refused by the master: {why_not}", None, client_id)
        gevent.spawn_later(DISMISS_AFTER_S, runner.send_message, compat.QUIT, None, client_id)
    return False


compat.filter_master_messages(_is_for_locust)
compat.replace_join(_join)


@events.heartbeat_sent.add_listener
def _note_message(client_id: str, **_: Any) -> None:
    ROSTER.last_message_s[client_id] = RECORDER.now_s()


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        gevent.spawn(_watch_workers, runner)
        path = getattr(environment.parsed_options, "roster", "")
        if path:
            gevent.spawn(_publish, runner, Path(path))


def _watch_workers(runner: MasterRunner) -> None:
    """Mark silent workers as left until they send again, in half the time after which Locust counts them as missing."""
    while True:
        gevent.sleep(1)
        for client_id in compat.worker_ids(runner) if compat.is_swarming(runner) else ():
            process = ROSTER.processes.get(client_id)
            if process is None:
                continue
            last_s = ROSTER.last_message_s.setdefault(client_id, RECORDER.now_s())
            silent_s, has_left = RECORDER.now_s() - last_s, RECORDER.merged.has_left(process)
            if silent_s > compat.worker_silence_s() / 2 and not has_left:
                RECORDER.merged.left(process, last_s)
                ROSTER.notice(f"{title(process)} is silent: its last message came {silent_s} s ago")
            elif silent_s <= compat.worker_silence_s() / 2 and has_left:
                RECORDER.merged.returned(process)
                ROSTER.notice(f"{title(process)} is back")


def is_worker_missing(runner: MasterRunner) -> bool:
    """Whether a worker that has joined is missing, even if only for the moment."""
    return runner.worker_count < len(ROSTER.processes)


def mark_lost(client_id: str) -> None:
    """Record that a worker was lost: its sockets count until its last message only."""
    process = ROSTER.processes[client_id]
    RECORDER.merged.left(process, ROSTER.last_message_s.get(client_id, RECORDER.now_s()))
    ROSTER.notice(f"{title(process)} was lost")


def _leaves(runner: MasterRunner, client_id: str) -> bool:
    """Handle a worker that something other than its master ended; return whether Locust handles that too.

    Before the swarm has started it does not: another worker may take the place, and Locust would end a master without
    workers.
    """
    if ROSTER.is_ending:
        return True
    is_early = not compat.is_swarming(runner) and not ROSTER.is_closed
    if process := ROSTER.processes.get(client_id):
        ROSTER.notice(f"{title(process)} has ended")
        if is_early:
            del ROSTER.processes[client_id]
        else:
            RECORDER.merged.left(process, RECORDER.now_s())
    if is_early and compat.has_worker(runner, client_id):
        compat.forget_worker(runner, client_id)
    return not is_early


def _publish(runner: MasterRunner, path: Path) -> None:
    """Keep a file with the workers that have joined up to date, for the process that started this one."""
    written = ""
    while True:
        text = json.dumps(
            {
                "is_waiting": not ROSTER.is_closed,
                "came": len(ROSTER.processes) if ROSTER.is_closed else runner.worker_count,
                "expected": ROSTER.expected,
                "ended": ROSTER.ended,
                "notices": ROSTER.notices,
            }
        )
        if text != written:
            write_whole(path, text)
            written = text
        gevent.sleep(POLL_S)


# The swarm of a run


def await_workers(runner: MasterRunner, expected: int, timeout_s: float) -> None:
    """Wait until `expected` workers have joined, and admit no more after that.

    Ends this process if they have not joined within `timeout_s`; 0 is without a limit.
    """
    ROSTER.expected = expected
    began_s = joined_s = time.monotonic()
    joined = 0
    try:
        while runner.worker_count < expected or time.monotonic() - joined_s < SETTLED_S:
            if runner.worker_count != joined:
                joined, joined_s = runner.worker_count, time.monotonic()
            if joined < expected and timeout_s and time.monotonic() - began_s > timeout_s:
                _dismiss(runner, f"{joined} of {expected} workers came within {timeout_s:g} s")
            gevent.sleep(POLL_S)
    except KeyboardInterrupt:
        _dismiss(runner, "the run was interrupted before it began")
    for client_id in compat.missing_workers(runner):  # such a worker is not in the swarm, even if it sends again
        compat.forget_worker(runner, client_id)
        ROSTER.processes.pop(client_id, None)
    ROSTER.is_closed = True


def _dismiss(runner: MasterRunner, why: str) -> NoReturn:
    """Send the workers away and end this process. quit() takes a second, which is enough for _publish()."""
    ROSTER.ended, ROSTER.is_ending = why, True
    for client_id in compat.worker_ids(runner):
        runner.send_message(REFUSED, f"the master ended: {why}", client_id)  # type: ignore[arg-type]
    runner.quit()
    sys.exit(EXIT_FAILURE)
