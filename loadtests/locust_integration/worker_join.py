"""How a Locust worker joins its master, is refused, and is missed.

Locust takes any worker at any time, compares only its own version, and moves the users of a worker that comes or goes.
listeners.py imports this module, so that a swarm with a TcpUser checks each worker that joins. load_shape.py waits here
for the workers, and then admits no more.

    worker -> master   gserver_worker, its introduction, then Locust's client_ready
    master -> worker   gserver_welcome, then Locust's ack; or gserver_refused, why
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import gevent
from locust import __version__ as locust_version
from locust import events, runners
from locust.argument_parser import LocustArgumentParser
from locust.dispatch import UsersDispatcher
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

import gserver
from loadtests.exit_status import EXIT_FAILURE, EXIT_USAGE
from loadtests.locust_integration.recorder import RECORDER
from loadtests.recording.swarm_membership import Identity, Roster, title
from loadtests.results.store import write_whole

__all__ = ["ROSTER", "await_workers", "is_anyone_lost", "keep_still", "miss"]

INTRODUCTION, WELCOME, REFUSED = "gserver_worker", "gserver_welcome", "gserver_refused"
PACKAGE = Path(__file__).parents[1]
LOAD_SHAPE = Path(__file__).with_name("load_shape.py")
# A message to a master that was just ending is lost: the worker sends it again.
JOIN_AGAIN_S = 5.0
# A connection that is lost for a few seconds does no harm; a master that is silent for longer is gone.
MASTER_SILENCE_S = 20
# Workers that come while the last expected one does take part: several processes of one command come one by one.
SETTLED_S = 1.0
POLL_S = 0.1
# A Locust without loadtests must have begun to listen before it is sent away, or it waits for ever.
DISMISSED_AFTER_S = 1.0
LINGER_MS = 200
SWARMING = (STATE_SPAWNING, STATE_RUNNING)

ROSTER = Roster()
_has_heard_master = False

# Locust compares times of day, which may be set while a run lasts; _watch_master() does not.
runners.MASTER_HEARTBEAT_TIMEOUT = math.inf  # type: ignore[assignment]


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--roster", default="", help="Write here which workers have come", include_in_web_ui=False)
    add(
        "--master-timeout", type=float, default=300.0, help="Seconds in which a worker's master must answer",
        include_in_web_ui=False,
    )  # fmt: skip


# What is compared


def _identity(environment: Environment) -> Identity:
    return _identity_of(tuple(environment.parsed_locustfiles or ()))


@functools.cache
def _identity_of(files: tuple[str, ...]) -> Identity:
    """loadtests has the version of gserver: what tells two states of its source apart is a digest."""
    own = _digest(sorted(PACKAGE.rglob("*.py")))
    versions = {
        "gserver": gserver.__version__,
        "loadtests": f"{gserver.__version__} ({own[:8]})",
        "locust": locust_version,
    }
    paths = [Path(file) for file in files if Path(file).is_file() and Path(file).resolve() != LOAD_SHAPE]
    return Identity(versions, " and ".join(sorted(path.name for path in paths)), _digest(paths))


def _digest(paths: list[Path]) -> str:
    """Of what is in files, whatever their names are."""
    each = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return hashlib.sha256("".join(each).encode()).hexdigest()


# The worker


def _join(runner: WorkerRunner) -> None:
    """Be welcomed by the master, or end this process with a line that says why not. In the place of Locust's own."""
    at = f"{runner.master_host}:{runner.master_port}"
    patience_s = getattr(runner.environment.parsed_options, "master_timeout", 300.0)
    answers: list[str] = []
    runner.register_message(WELCOME, lambda **_: answers.append(""))
    runner.register_message(REFUSED, functools.partial(_take_refusal, runner, answers))
    identity = _identity(runner.environment)
    deadline = time.monotonic() + patience_s
    while not runner.connection_event.is_set():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            _give_up(runner, EXIT_FAILURE, f"no master of Locust answered at {at} within {patience_s:g} s")
        runner.send_message(INTRODUCTION, {"process": RECORDER.process, **identity.to_json()})
        runner.send_message("client_ready", locust_version)  # type: ignore[arg-type]
        runner.connection_event.wait(min(JOIN_AGAIN_S, left_s))
    if not answers:
        runner.send_message("quit")
        why = f"the master at {at} has no loadtests, or another version; this worker has {identity.shown}"
        _give_up(runner, EXIT_USAGE, why)
    if answers[0]:
        _give_up(runner, EXIT_USAGE, f"refused by the master at {at}: {answers[0]}")
    runner.connected = True
    gevent.spawn(_watch_master, runner, at)


def _take_refusal(runner: WorkerRunner, answers: list[str], msg: Message, **_: Any) -> None:
    if runner.connected:
        print(f"loadtests: {msg.data}", file=sys.stderr, flush=True)
        runner.environment.process_exit_code = EXIT_FAILURE
        return
    answers.append(str(msg.data))
    runner.connection_event.set()


def _give_up(runner: WorkerRunner, status: int, why: str) -> NoReturn:
    print(f"loadtests: {why}", file=sys.stderr, flush=True)
    runner.greenlet.kill()  # one of them reads from the socket, and would go on to try
    runner.client.close(linger=LINGER_MS)  # type: ignore[no-untyped-call]
    sys.exit(status)


@events.heartbeat_received.add_listener
def _hear_master(**_: Any) -> None:
    global _has_heard_master
    _has_heard_master = True


def _watch_master(runner: WorkerRunner, at: str) -> None:
    """End this process if its master is silent for long. Seconds in which this process did not run are not counted."""
    global _has_heard_master
    silent_s = 0
    while silent_s < MASTER_SILENCE_S:
        gevent.sleep(1)
        silent_s = 0 if _has_heard_master else silent_s + 1
        _has_heard_master = False
    print(f"loadtests: the master at {at} has been silent for {MASTER_SILENCE_S:g} s", file=sys.stderr, flush=True)
    runner.environment.process_exit_code = EXIT_FAILURE
    runner.quit()


# The master


def _handle(runner: MasterRunner, client_id: str, msg: Message) -> None:
    """Before Locust's own handling of a worker's message."""
    if msg.type == INTRODUCTION:
        ROSTER.introduce(client_id, msg.data)
        return
    if msg.type == "client_ready" and not _admitted(runner, client_id, str(msg.data)):
        return
    if msg.type == "quit" and not _leaves(runner, client_id):
        return
    _locusts_own_handling(runner, client_id, msg)


def _admitted(runner: MasterRunner, client_id: str, locust: str) -> bool:
    """Whether Locust is to take a worker that is ready; one that it has already is only answered again."""
    if client_id in runner.clients:
        _acknowledge(runner, client_id)
        return False
    before = len(ROSTER.notices)
    why = ROSTER.admit(client_id, locust, _identity(runner.environment))
    for sentence in ROSTER.notices[before:]:
        print(f"loadtests: {sentence}", file=sys.stderr, flush=True)
    if not why:
        runner.send_message(WELCOME, None, client_id)
        return True
    if ROSTER.has_introduction(client_id):
        runner.send_message(REFUSED, why, client_id)  # type: ignore[arg-type]
    else:
        # A worker without loadtests shows the type of a message that it does not know.
        _acknowledge(runner, client_id)
        runner.send_message(f"refused by the master: {why}", None, client_id)
        gevent.spawn_later(DISMISSED_AFTER_S, runner.send_message, "quit", None, client_id)
    return False


def _acknowledge(runner: MasterRunner, client_id: str) -> None:
    index = runner.get_worker_index(client_id)  # type: ignore[no-untyped-call]
    runner.send_message("ack", {"index": index}, client_id)


_locusts_own_handling = MasterRunner.handle_message
MasterRunner.handle_message = _handle  # type: ignore[method-assign, assignment]
WorkerRunner.connect_to_master = _join  # type: ignore[method-assign]


@events.heartbeat_sent.add_listener
def _hear_worker(client_id: str, **_: Any) -> None:
    ROSTER.heard[client_id] = RECORDER.now_s()


@events.init.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        gevent.spawn(_watch_workers, runner)
        path = getattr(environment.parsed_options, "roster", "")
        if path:
            gevent.spawn(_publish, runner, Path(path))


def _watch_workers(runner: MasterRunner) -> None:
    """Miss workers that are silent, until they are heard of again: well before Locust takes them for dead."""
    while True:
        gevent.sleep(1)
        for client in runner.clients.all if runner.state in SWARMING else ():
            process = ROSTER.processes.get(client.id)
            if process is None:
                continue
            heard_s = ROSTER.heard.setdefault(client.id, RECORDER.now_s())
            silent_s, is_missed = RECORDER.now_s() - heard_s, RECORDER.merged.has_left(process)
            if silent_s > runners.HEARTBEAT_LIVENESS / 2 and not is_missed:
                RECORDER.merged.left(process, heard_s)
                ROSTER.notice(f"{title(process)} is silent: its last message came {silent_s} s ago")
            elif silent_s <= runners.HEARTBEAT_LIVENESS / 2 and is_missed:
                RECORDER.merged.returned(process)
                ROSTER.notice(f"{title(process)} is back")


def is_anyone_lost(runner: MasterRunner) -> bool:
    """Whether a worker that has joined is not there, at the moment at least."""
    return runner.worker_count < len(ROSTER.processes)


def miss(client_id: str) -> None:
    """A worker is no more, as far as is known: its sockets no longer count after its last message."""
    process = ROSTER.processes[client_id]
    RECORDER.merged.left(process, ROSTER.heard.get(client_id, RECORDER.now_s()))
    ROSTER.notice(f"{title(process)} was lost")


def _leaves(runner: MasterRunner, client_id: str) -> bool:
    """A worker was ended by somebody else than its master; whether Locust is to handle that.

    Before the swarm has started another worker may take its place, and Locust would end a master that has none left.
    """
    if ROSTER.is_ending:
        return True
    is_early = runner.state not in SWARMING and not ROSTER.is_closed
    if process := ROSTER.processes.get(client_id):
        ROSTER.notice(f"{title(process)} has ended")
        if is_early:
            del ROSTER.processes[client_id]
        else:
            RECORDER.merged.left(process, RECORDER.now_s())
    if is_early and client_id in runner.clients:
        del runner.clients[client_id]
    return not is_early


def _publish(runner: MasterRunner, path: Path) -> None:
    """Keep a file that says which workers have come, for the process that started this one."""
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


class _Still(UsersDispatcher):
    """Locust asks whether it is dispatching before it hands the users of a worker that left to the others, at once."""

    dispatch_in_progress = True


def keep_still(environment: Environment) -> None:
    """Have Locust start users where the shape of a run says so, and not because a worker came, left or was silent."""
    environment.dispatcher_class = _Still
    # A minute after a worker was lost, Locust would start the whole swarm again on the others.
    runners.HEARTBEAT_DEAD_INTERNAL = -math.inf  # type: ignore[assignment]


def await_workers(runner: MasterRunner, expected: int, patience_s: float) -> None:
    """Wait for the workers, and close the swarm; end this process if they do not come. patience_s: 0 is for ever."""
    ROSTER.expected = expected
    began_s = came_s = time.monotonic()
    came = 0
    try:
        while runner.worker_count < expected or time.monotonic() - came_s < SETTLED_S:
            if runner.worker_count != came:
                came, came_s = runner.worker_count, time.monotonic()
            if came < expected and patience_s and time.monotonic() - began_s > patience_s:
                _dismiss(runner, f"{came} of {expected} workers came within {patience_s:g} s")
            gevent.sleep(POLL_S)
    except KeyboardInterrupt:
        _dismiss(runner, "the run was interrupted before it began")
    for client in runner.clients.missing:  # it is no part of the swarm, even if it is heard of again
        del runner.clients[client.id]
        ROSTER.processes.pop(client.id, None)
    ROSTER.is_closed = True


def _dismiss(runner: MasterRunner, why: str) -> NoReturn:
    """Send the workers away; the second that quit() takes is enough for _publish()."""
    ROSTER.ended, ROSTER.is_ending = why, True
    for client in runner.clients.all:
        runner.send_message(REFUSED, f"the master ended: {why}", client.id)  # type: ignore[arg-type]
    runner.quit()
    sys.exit(EXIT_FAILURE)
