"""From an application and settings to the server of a worker, as a test runs it."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gserver.codecs import Codec, Raw
from gserver.config.addresses import TcpBind
from gserver.config.hooks import HOOKS
from gserver.config.listener_settings import Listener
from gserver.config.settings import Settings, declared
from gserver.counters import Counters
from gserver.errors import ConfigError
from gserver.json_service import JsonService
from gserver.server.tcp_server import Handle
from gserver.service import Service, StreamService
from gserver.tls.contexts import Tls
from gserver.user_errors import check_bare
from gserver.worker.app_loader import parse_application
from gserver.worker.worker import apply_settings
from gserver.worker.worker_server import WorkerServer

__all__ = ["GRACEFUL_S", "TestedService"]

#: The default of graceful_timeout in a test, in seconds: a handler that does not return is soon reported.
GRACEFUL_S = 5.0
# Groups of settings that only a server with an arbiter has, and single ones.
_GROUPS_OF_ARBITER = {"Worker Recycling", "Development", "Server Mechanics", "Logging"}
_OF_ARBITER = {
    *(
        "bind",
        "listeners",
        "reuse_port",
        "workers",
        "min_workers",
        "patch",
        "preload_app",
        "worker_oom_score_adj",
        "timeout",
    ),
    *("shutdown_delay", "reload_surge", "reload_settle", "block_warning", "bus", "bus_queue"),
    *(set(HOOKS) - {"connection_open", "connection_close"}),
}

log = logging.getLogger("gserver.testing")


@dataclass(frozen=True)
class _Worker:
    """The worker that the hooks connection_open and connection_close get."""

    settings: Settings
    pid: int = os.getpid()
    age: int = 1
    log: logging.Logger = log


class TestedService:
    """An application with settings.

    Args:
        app: a Service, a JsonService, a @stream function, a function handle(socket, address), or the text of one as on
            the command line: "MODULE:NAME".
        values: settings by their names, as in a config file. ConfigError if one is unknown or wrong, or has no effect
            because there is no arbiter.
        listener: conn.listener of its connections; None: the address.

    Attributes:
        served: what is served. It is a copy: settings such as max_message_size do not change the application.
        settings: the validated settings.
        counters: what the server counts.
    """

    __test__ = False  # pytest: this is no test, whatever its name

    def __init__(self, app: Any, values: Mapping[str, Any], listener: str | None = None) -> None:
        self.listener = listener
        self.settings = _checked(values)
        self.served: Handle = _loaded(app)
        self.counters = Counters()
        apply_settings(self.served, self.settings)
        self._tls = None if self.settings.tls is None else Tls(self.settings.tls)

    @property
    def is_service(self) -> bool:
        """Whether it is a service, and not a function handle(socket, address)."""
        return isinstance(self.served, Service | StreamService)

    def make_codec(self) -> Codec:
        """Return a new codec as the service's clients need it; Raw for handle(socket, address)."""
        if isinstance(self.served, JsonService):
            return self.served.untyped_codec()
        return self.served.codec() if isinstance(self.served, Service | StreamService) else Raw()

    def make_server(self, sock: Any) -> WorkerServer:
        """Return the server, not started, in the hub of the calling thread."""
        worker = _Worker(self.settings)
        listener = None if self.listener is None else Listener(TcpBind("", 0), self.listener, is_declared=True)
        return WorkerServer(
            sock, self.served, self.settings, self.counters, None, worker, listener=listener, tls=self._tls
        )

    def stop(self) -> None:
        """Call the service's stop(), if it has one; an exception is logged."""
        stop = getattr(self.served, "stop", None)
        if self.is_service and stop is not None:
            try:
                stop()
            except BaseException:
                log.exception("stop() of the service failed")


def _checked(values: Mapping[str, Any]) -> Settings:
    settings = Settings.checked({"graceful_timeout": GRACEFUL_S, "drain_spread": 0, **values})
    groups = {field.name: field.metadata["group"] for field in declared()}
    for name in values:
        if name in _OF_ARBITER or groups[name] in _GROUPS_OF_ARBITER:
            raise ConfigError(f"setting {name} has no effect in a test: it is for a server with an arbiter and workers")
    return settings


def _loaded(app: Any) -> Handle:
    if isinstance(app, str):
        app = parse_application(app).load()
    if isinstance(app, Service | StreamService):
        return copy.copy(app)
    check_bare("app", app)
    if not callable(app):
        raise ConfigError(f"app is {app!r}: expected a Service, a @stream function, handle(socket, address), or a text")
    handle: Handle = app
    return handle
