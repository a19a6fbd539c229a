"""How many files this process and its children may have open: the soft limit is raised to what a worker needs.

Shells and systemd start programs with a soft limit of 1,024 and a hard one that is much higher, so that a program which
can do with more raises it by itself (getrlimit(2)). Each connection is an open file.
"""

from __future__ import annotations

import logging
import resource

__all__ = ["raise_open_files_limit"]

log = logging.getLogger("gserver")

#: What a worker opens beside its connections: up to 1,024 sockets that linger after their last reply, its listeners,
#: logs and event loop, and some for the application.
BESIDE_CONNECTIONS = 1280


def raise_open_files_limit(worker_connections: int) -> None:
    """Raise the soft limit to what `worker_connections` need, or log a warning that names what is needed and what is
    allowed. It is never raised above the hard limit, and never lowered.
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
