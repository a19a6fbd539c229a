"""The preload process: imports the application, then forks a worker for each FORK message of the arbiter."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import logging
import os
import select
import signal
import socket
import sys
import time
from time import sleep  # gevent's version would switch to other greenlets
from types import FrameType
from typing import Any, NoReturn

from gserver.arbiter.channel import BORN, FORK, PRELOADED, REOPEN, Channel, Message
from gserver.arbiter.supervision import PRELOAD_FORK_S
from gserver.arbiter.worker_processes import EXIT_CANNOT_START, WorkerContext
from gserver.errors import ConfigError
from gserver.process import logs
from gserver.process.child import fork_child
from gserver.process.privileges import drop_privileges
from gserver.process.proctitle import set_title
from gserver.worker.applications import Applications, CannotImport
from gserver.worker.fork_cleanup import run_in_every_fork
from gserver.worker.imported_files import ImportBeginning, ImportedFiles
from gserver.worker.process_exit import ProcessExit
from gserver.worker.worker import END_S, be_killed_first, load, report_failure, report_import_failure, run_worker

__all__ = ["run_preload_process"]

log = logging.getLogger("gserver.worker")

POLL_S = 0.0005


def run_preload_process(app: str | None, context: WorkerContext) -> int:
    """Fork workers until the arbiter has closed the channel; return the exit status of the process.

    Args:
        app: as for run_worker().
    """
    applications = Applications(context.settings, app)
    settings = context.settings
    began = ImportBeginning.now(settings.chdir)
    # The originals, before the application is imported and patches them. (A patched close is delayed.)
    fork, waitpid, close, poll = os.fork, os.waitpid, os.close, select.poll()
    log.info("Preloading (pid: %d)", os.getpid())
    process_exit = ProcessExit(context.channel)
    run_in_every_fork(context.channel.close)
    be_killed_first(context)
    set_title("preload", settings.proc_name or applications.title)
    signal.signal(signal.SIGUSR2, _dump_stack)
    faulthandler.register(signal.SIGUSR2, chain=True)
    try:
        drop_privileges(settings.user, settings.group, settings.initgroups)
        served = load(settings, applications)
    except ConfigError as error:
        log.error("%s", error)
        report_failure(context.channel, str(error))
        return EXIT_CANNOT_START
    except CannotImport as failure:
        report_import_failure(context.channel, failure.text, failure.__cause__)
        return EXIT_CANNOT_START
    except BaseException as error:
        report_import_failure(context.channel, applications.title, error)
        return EXIT_CANNOT_START
    imported = ImportedFiles.record(settings.chdir, began)
    for stream in (sys.stdout, sys.stderr):  # else each worker would print the buffered output again
        with contextlib.suppress(Exception):
            stream.flush()
    poll.register(context.channel.fileno(), select.POLLIN)
    context.channel.send(PRELOADED)
    while True:
        poll.poll()
        message = context.channel.receive()
        if message is None:
            process_exit.limit(END_S)
            process_exit.run()
            return 0
        if message.kind == REOPEN:
            logs.adopt(message.addresses, message.descriptors)
        elif message.kind == FORK:
            try:
                waitpid(
                    fork_child(
                        functools.partial(_run_intermediate, fork, app, context, message, served, imported),
                        fork,
                    ),
                    0,
                )
            except OSError as error:
                log.error("Cannot fork: %s", error)
            close(message.descriptors[0])  # if no worker has it, the arbiter reads end-of-file


def _dump_stack(number: int, frame: FrameType | None) -> None:
    """USR2: log the stack, which shows where the import hangs."""
    from gserver.worker.stack_dump import describe_stacks

    log.critical("Stacks of the preload process (pid: %d)\n%s", os.getpid(), describe_stacks((), frame))


def _run_intermediate(
    fork: Any,
    app: str | None,
    context: WorkerContext,
    message: Message,
    served: Any,
    imported: ImportedFiles,
) -> NoReturn:
    """In the intermediate process: fork the worker, and exit, so that the arbiter adopts it."""
    fork_child(functools.partial(_run_worker, app, context, message, served, imported, os.getpid()), fork)
    os._exit(0)  # there is nothing to flush, and it must not block


def _run_worker(
    app: str | None,
    preload_context: WorkerContext,
    message: Message,
    served: Any,
    imported: ImportedFiles,
    intermediate: int,
) -> int:
    """In the new worker: report its pid to the arbiter, and serve."""
    preload_context.channel.close()
    index, age = map(int, message.addresses)
    channel = Channel(socket.socket(fileno=message.descriptors[0]))
    if not _is_adopted(intermediate) or not channel.send(BORN, [str(os.getpid())]):
        return 0  # the arbiter has given up this worker
    slot = preload_context.scoreboard.slot(index)
    context = WorkerContext(
        preload_context.settings,
        age,
        slot,
        preload_context.scoreboard,
        channel,
        preload_context.server,
        preload_context.tls,
        served,
        imported,
    )
    if "gevent" in sys.modules:
        import gevent

        gevent.reinit()  # the event loop is a copy from the preload process
    return run_worker(app, context)


def _is_adopted(intermediate: int) -> bool:
    """Wait until the intermediate process has ended: the arbiter accepts only its own children as workers.

    False if that takes longer than PRELOAD_FORK_S.
    """
    deadline = time.monotonic() + PRELOAD_FORK_S
    while os.getppid() == intermediate:
        if time.monotonic() > deadline:
            return False
        sleep(POLL_S)
    return True
