"""The exit statuses of `loadtests` and of the Locust processes that it starts."""

from __future__ import annotations

__all__ = ["EXIT_FAILURE", "EXIT_INCONCLUSIVE", "EXIT_INTERRUPTED", "EXIT_USAGE"]

#: The command did its work and found something bad: exchanges failed, B is worse, a limit of this host is too low.
EXIT_FAILURE = 1
#: The command could not do its work: a wrong argument, a missing package, no server, a file that cannot be written.
EXIT_USAGE = 2
#: The measurement cannot be believed, or does not suffice for a verdict.
EXIT_INCONCLUSIVE = 3
#: Ctrl-C, as a shell reports it: 128 + SIGINT.
EXIT_INTERRUPTED = 130
