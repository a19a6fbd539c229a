"""The server hooks: functions in the user's config file, with gunicorn's names.

`server` is the Arbiter. `worker` is a Child (pid, age, slot) in hooks that the arbiter calls, and the Worker (pid, age,
settings, log) in hooks that run in the worker. connection_open and connection_close run in the worker, for each
connection.

An exception of a hook, including SystemExit and KeyboardInterrupt, is logged with the hook's name, and otherwise
ignored. Three hooks differ: if on_starting raises, the server does not start and prints one line; if post_fork or
post_worker_init raises, the worker does not start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from gserver.errors import ConfigError
from gserver.user_errors import described

__all__ = ["HOOKS", "Hooks"]

log = logging.getLogger("gserver.hooks")

#: Name -> (parameters, when it is called).
HOOKS: dict[str, tuple[tuple[str, ...], str]] = {
    "on_starting": (("server",), "in the arbiter, before it opens the listening sockets"),
    "when_ready": (("server",), "in the arbiter, when all workers are ready for the first time"),
    "pre_fork": (("server", "worker"), "in the arbiter, before a worker is forked; the worker has no pid yet"),
    "post_fork": (("server", "worker"), "in the worker, right after the fork"),
    "post_worker_init": (("worker",), "in the worker, after the application is loaded and before it is probed"),
    "worker_int": (("worker",), "in the worker, when it must stop at once (QUIT)"),
    "worker_abort": (("worker",), "in a worker that sent no heartbeat within timeout, before it is killed"),
    "worker_exit": (("server", "worker"), "in the worker, before its process exits normally"),
    "child_exit": (("server", "worker"), "in the arbiter, when a worker's process has ended"),
    "nworkers_changed": (
        ("server", "new_value", "old_value"),
        "in the arbiter, when the number of workers has changed (TTIN, TTOU, reload)",
    ),
    "on_reload": (("server",), "in the arbiter, when a reload begins; server has the new settings"),
    "pre_exec": (("server",), "in the arbiter, before a new arbiter is executed (USR2)"),
    "on_exit": (("server",), "in the arbiter, when the last worker has ended"),
    "connection_open": (("worker", "conn"), "in the worker, for each new connection of a service"),
    "connection_close": (
        ("worker", "conn", "reason"),
        "in the worker, for each closed one; reason is a CloseReason",
    ),
}
_FAILS_A_WORKER = {"post_fork", "post_worker_init"}


class Hooks:
    """The hooks that the user has set."""

    def __init__(self, functions: Mapping[str, Any]) -> None:
        self._functions = {name: function for name, function in functions.items() if function is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def call(self, name: str, *arguments: Any, passes: Callable[[BaseException], bool] | None = None) -> None:
        """Call the hook `name`, if it is set. ConfigError if the start of the server or of a worker fails with it.

        Args:
            passes: returns True for an exception that does not belong to the hook; it is raised again.
        """
        function = self._functions.get(name)
        if function is None:
            return
        try:
            function(*arguments)
        except BaseException as error:
            if passes is not None and passes(error):
                raise
            if name == "on_starting":
                log.debug("hook %s failed", name, exc_info=True)
                raise ConfigError(f"hook {name} failed: {described(error)}") from None
            log.exception("hook %s failed", name)
            if name in _FAILS_A_WORKER:
                raise ConfigError(f"hook {name} failed: {described(error)}") from error
