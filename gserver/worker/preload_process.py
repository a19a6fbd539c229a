"""The mold's own part: import the application, then fork a worker whenever the arbiter says so."""

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
from time import sleep  # gevent's would let others run
from types import FrameType
from typing import Any, NoReturn

from gserver.arbiter.channel import BORN, FORK, PRELOADED, REOPEN, Channel, Message
from gserver.arbiter.supervision import BIRTH_S
from gserver.arbiter.worker_processes import EXIT_CANNOT_START, Post
from gserver.errors import ConfigError
from gserver.process import logs
from gserver.process.child import fork_child
from gserver.process.privileges import drop_privileges
from gserver.process.proctitle import set_title
from gserver.worker.app_loader import Application
from gserver.worker.fork_cleanup import in_every_fork
from gserver.worker.process_exit import Ending
from gserver.worker.worker import END_S, load, run_worker

__all__ = ["run_mold"]

log = logging.getLogger("gserver.worker")

POLL_S = 0.0005


def run_mold(application: Application, post: Post) -> int:
    """Fork workers until the arbiter is gone; return the exit status of the process."""
    settings = post.settings
    # As they are before the application is imported and patches them.
    fork, waitpid, close, poll = os.fork, os.waitpid, os.close, select.poll()  # (a patched close is put off)
    log.info("Preloading (pid: %d)", os.getpid())
    ending = Ending(post.channel)
    in_every_fork(post.channel.close)
    set_title("mold", settings.proc_name or application.text)
    signal.signal(signal.SIGUSR2, _dump)
    faulthandler.register(signal.SIGUSR2, chain=True)
    try:
        drop_privileges(settings.user, settings.group, settings.initgroups)
        served = load(settings, application)
    except ConfigError as error:
        log.error("%s", error)
        return EXIT_CANNOT_START
    except BaseException:
        log.exception("%r cannot be imported", application.text)
        return EXIT_CANNOT_START
    for stream in (sys.stdout, sys.stderr):  # what the import has printed is no worker's to print again
        with contextlib.suppress(Exception):
            stream.flush()
    poll.register(post.channel.fileno(), select.POLLIN)
    post.channel.send(PRELOADED)
    while True:
        poll.poll()
        message = post.channel.receive()
        if message is None:
            ending.limit(END_S)
            ending.run()
            return 0
        if message.word == REOPEN:
            logs.adopt(message.addresses, message.descriptors)
        elif message.word == FORK:
            try:
                waitpid(fork_child(functools.partial(_fork_again, fork, application, post, message, served), fork), 0)
            except OSError as error:
                log.error("Cannot fork: %s", error)
            close(message.descriptors[0])  # if nobody else has it, the arbiter sees that nobody will come


def _dump(number: int, frame: FrameType | None) -> None:
    """USR2: write where the import hangs."""
    from gserver.worker.stack_dump import describe_stacks

    log.critical("Stacks of the mold (pid: %d)\n%s", os.getpid(), describe_stacks((), frame))


def _fork_again(fork: Any, application: Application, post: Post, message: Message, served: Any) -> NoReturn:
    """In the process between: fork the worker, and leave it to the arbiter."""
    fork_child(functools.partial(_work, application, post, message, served, os.getpid()), fork)
    os._exit(0)  # it has nothing to flush, and must not block


def _work(application: Application, mold: Post, message: Message, served: Any, between: int) -> int:
    """In the worker."""
    mold.channel.close()
    slot, age = map(int, message.addresses)
    channel = Channel(socket.socket(fileno=message.descriptors[0]))
    if not _is_adopted(between) or not channel.send(BORN, [str(os.getpid())]):
        return 0  # the arbiter has given it up
    place = mold.scoreboard.place(slot)
    post = Post(mold.settings, age, place, mold.scoreboard, channel, mold.server, mold.tls, served)
    if "gevent" in sys.modules:
        import gevent

        gevent.reinit()  # the event loop of the mold is not this process's
    return run_worker(application, post)


def _is_adopted(between: int) -> bool:
    """Wait until the process between has ended: the arbiter believes in nobody who is not its child."""
    deadline = time.monotonic() + BIRTH_S
    while os.getppid() == between:
        if time.monotonic() > deadline:
            return False
        sleep(POLL_S)
    return True
