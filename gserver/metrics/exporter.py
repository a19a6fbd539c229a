"""The metrics process, from its fork to its exit: drops its rights, serves, and ends with its lifeline.

It has no listener of the service and runs no code of the user: no hook, no application.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from gserver.arbiter.metrics_process import MetricsContext
from gserver.errors import ConfigError
from gserver.process.daemon import leave_terminal
from gserver.process.privileges import drop_privileges
from gserver.process.proctitle import set_title

__all__ = ["run_metrics"]

log = logging.getLogger("gserver.metrics")

# How long answers that are being sent may take once the process is to end.
DRAIN_S = 5.0
EXIT_CANNOT_START = 3


def run_metrics(name: str, context: MetricsContext) -> int:
    """Serve until the arbiter has closed the lifeline, or has ended; return the exit status.

    Args:
        name: of the application, for the title of the process.
    """
    settings = context.settings
    set_title("metrics", settings.proc_name or name)
    try:
        drop_privileges(settings.user, settings.group, settings.initgroups)
    except ConfigError as error:
        log.error("%s", error)
        return EXIT_CANNOT_START
    if settings.daemon:
        leave_terminal()
    return _serve(context)


def _serve(context: MetricsContext) -> int:
    import gevent
    from gevent.event import Event

    from gserver.fault_isolation import log_hub_errors
    from gserver.metrics.http_service import DEADLINES, LIMITS, OwnNotices, http_service
    from gserver.metrics.routes import make_application
    from gserver.server.tcp_server import TcpServer

    log_hub_errors()
    ended = Event()
    application = make_application(context.scoreboard, context.settings)
    server = TcpServer(
        context.listener, http_service(application), deadlines=DEADLINES, limits=LIMITS, notices=OwnNotices()
    )
    watcher: Any = gevent.get_hub().loop.io(context.lifeline, 1)
    watcher.start(ended.set)
    gevent.signal_handler(signal.SIGTERM, ended.set)
    server.start()
    log.info("Metrics process ready (pid: %d)", os.getpid())
    ended.wait()
    server.close()
    server.drain(DRAIN_S, accept_queued=False)
    return 0
