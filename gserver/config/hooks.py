"""The hooks: functions of the user's config file, by gunicorn's names, called at turns of the server's life.

`server` is the Arbiter. `worker` is a Child where the arbiter calls (pid, age, slot), and the Worker in its own process
(pid, age, settings, log). connection_open and connection_close run in the worker, for each connection.

A hook that raises, whatever it is (sys.exit() and KeyboardInterrupt too), is logged with its name, and nothing else
happens. Only at a start it matters: on_starting fails that of the server, with one line; post_fork and post_worker_init
that of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from gserver.errors import ConfigError
from gserver.user_errors import told

__all__ = ["HOOKS", "Hooks"]

log = logging.getLogger("gserver.hooks")

#: Name -> the arguments, and when it is called.
HOOKS: dict[str, tuple[tuple[str, ...], str]] = {
    "on_starting": (("server",), "before the arbiter binds"),
    "when_ready": (("server",), "when every worker is ready for the first time"),
    "pre_fork": (("server", "worker"), "in the arbiter, before a worker is forked; it has no pid yet"),
    "post_fork": (("server", "worker"), "in the worker, first thing"),
    "post_worker_init": (("worker",), "in the worker, when the application is loaded, before it is probed"),
    "worker_int": (("worker",), "in a worker that is told to stop at once"),
    "worker_abort": (("worker",), "in a worker that missed its deadline, before it is killed"),
    "worker_exit": (("server", "worker"), "in a worker, before its process ends in an orderly way"),
    "child_exit": (("server", "worker"), "in the arbiter, when a worker's process has ended"),
    "nworkers_changed": (("server", "new_value", "old_value"), "when the number of workers to keep has changed"),
    "on_reload": (("server",), "when a reload begins, with the new settings"),
    "pre_exec": (("server",), "before a new arbiter is executed (USR2)"),
    "on_exit": (("server",), "when the last worker is gone"),
    "connection_open": (("worker", "conn"), "for each connection of a service"),
    "connection_close": (("worker", "conn", "reason"), "for each of them that is closed; reason is a CloseReason"),
}
_FAILS_A_WORKER = {"post_fork", "post_worker_init"}


class Hooks:
    """The hooks that a user has set. ConfigError, from call(), only where a start fails with its hook."""

    def __init__(self, functions: Mapping[str, Any]) -> None:
        self._functions = {name: function for name, function in functions.items() if function is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def call(self, name: str, *arguments: Any, passes: Callable[[BaseException], bool] | None = None) -> None:
        """Call a hook, if it is set.

        Args:
            passes: whether an exception is none of the hook's own, and is let through.
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
                raise ConfigError(f"hook {name} failed: {told(error)}") from None
            log.exception("hook %s failed", name)
            if name in _FAILS_A_WORKER:
                raise ConfigError(f"hook {name} failed: {told(error)}") from error
