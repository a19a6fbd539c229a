"""Raises the soft limit of open files to what a worker needs.

Shells and systemd start programs with a soft limit of 1,024 and a much higher hard limit; a program that needs more
raises the soft limit itself (getrlimit(2)). Each connection is an open file.
"""

from __future__ import annotations

import logging
import resource

__all__ = ["raise_open_files_limit"]

log = logging.getLogger("gserver")

#: Open files of a worker besides its connections: up to 1,024 sockets in the lingering close, the listeners, the logs,
#: the event loop, and some for the application.
BESIDE_CONNECTIONS = 1280


def raise_open_files_limit(worker_connections: int) -> None:
    """Raise the soft limit to what `worker_connections` need, but not above the hard limit; never lower it.

    If the limit is still too low, log a warning with the number that is needed and the limit.
    """
    needed = worker_connections + BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _allows(soft, needed):
        return
    wanted = needed if _allows(hard, needed) else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    except (OSError, ValueError):  # more than the kernel's fs.nr_open, or forbidden by a sandbox
        pass
    if not _allows(soft, needed):
        log.warning(
            "A worker needs up to %d open files for worker_connections = %d, and the limit is %d: at the "
            "limit a worker turns clients away. Raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower "
            "worker_connections",
            needed,
            worker_connections,
            soft,
        )


def _allows(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
