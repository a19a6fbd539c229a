"""A worker: one process that serves the arbiter's listeners with the user's application.

    patch -> import the application -> serve -> READY -> (TERM, or the arbiter is gone) -> drain -> end

gevent is imported here and nowhere else in the arbiter's package, after the fork.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from gserver.application import Application
from gserver.arbiter.arbiter import EXIT_CANNOT_START, READY
from gserver.errors import ConfigError
from gserver.settings import Settings

if TYPE_CHECKING:
    from gserver.server import TcpServer

__all__ = ["run_worker"]

log = logging.getLogger("gserver.worker")


def run_worker(
    settings: Settings, application: Application, listeners: list[socket.socket], channel: socket.socket
) -> int:
    """Serve until told to stop; return the exit status of the process."""
    log.info("Booting worker (pid: %d)", os.getpid())
    if settings.patch:
        from gevent import monkey

        monkey.patch_all()
    sys.path.insert(0, settings.chdir)
    try:
        served = application.load()
    except ConfigError as error:
        log.error("%s", error)
        return EXIT_CANNOT_START
    except BaseException:
        log.exception("%r cannot be imported", application.text)
        return EXIT_CANNOT_START
    return _serve(settings, served, listeners, channel)


def _serve(settings: Settings, served: Any, listeners: list[socket.socket], channel: socket.socket) -> int:
    import gevent
    from gevent.event import Event

    stop = Event()
    gevent.signal_handler(signal.SIGTERM, stop.set)
    gevent.signal_handler(signal.SIGQUIT, os._exit, 0)
    servers = [_make_server(settings, served, listener) for listener in listeners]
    # What was made so far lives as long as the process: no collection need look at it again.
    gc.collect()
    gc.freeze()
    for server in servers:
        server.start()
    channel.sendall(READY)
    arbiter_gone = gevent.get_hub().loop.io(channel.fileno(), 1)
    arbiter_gone.start(stop.set)
    stop.wait()
    arbiter_gone.stop()
    arbiter_gone.close()
    drains = [gevent.spawn(server.drain, settings.graceful_timeout) for server in servers]
    killed = sum(drain.get() for drain in drains)
    if killed:
        log.warning("Killed %d connections that were still busy (pid: %d)", killed, os.getpid())
    return 0


def _make_server(settings: Settings, served: Any, listener: socket.socket) -> TcpServer:
    from gserver.server import TcpServer

    server = TcpServer(listener, served, greenlets=settings.greenlets)  # type: ignore[arg-type]
    if settings.workers > 1:
        server.max_accept = 1  # else one worker takes a whole burst, and the others idle (gunicorn #2266)
    return server
