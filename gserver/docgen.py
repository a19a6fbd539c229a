"""The pages of docs/ that are made from the code: `python -m gserver.docgen` writes them anew."""

from __future__ import annotations

from pathlib import Path

from gserver.arbiter import signals
from gserver.config.sources import markdown_table

__all__ = ["PAGES", "main"]

_SETTINGS = f"""\
# Settings

<!-- Made by `python -m gserver.docgen` from gserver/config/settings.py. -->

A setting's value comes from the last of these that has it: its default; the config file (`-c FILE`, else
`./gserver.conf.py`), a Python file whose names are settings; the variable `GSERVER_CMD_ARGS`, written like a command
line; the command line. Sockets that systemd passes take the place of `bind`. `gserver --print-config` prints what
holds, `gserver --check-config APP` checks it and starts the application as a worker would, up to its probe, without
taking a connection. A reload (HUP) reads the config file again;
what is marked *fixed* changes only with a new start, or an upgrade (USR2). Times are seconds.

{markdown_table()}"""

_SIGNALS = f"""\
# Signals

<!-- Made by `python -m gserver.docgen` from gserver/arbiter/signals.py. -->

`gserver --reload-pid FILE` sends HUP to the server with that pid file, waits until the reload is over, and ends with
status 0 if it worked; if not, it says why in one line, and the workers from before go on serving.

{signals.markdown_table()}
To upgrade the interpreter, gserver itself or a fixed setting without a pause: USR2 to the old arbiter; look at the new
one, whose pid file has `.2` behind its name; TERM to the old one, or to the new one if it is not good.

## How a worker ends

A worker ends because the server stops, because a reload or `max_requests` replaces it, or because it got TERM. The
order is always the same:

1. It drains: connections get the replies that they are owed, then they are closed.
2. `stop=` of the service is called. It has the rest of `graceful_timeout`, and at least a second; then it is
   killed. What it raises is logged.
3. The hook `worker_exit` is called.
4. The functions that were given to `atexit` are called. `concurrent.futures` and `multiprocessing` end their
   processes here. Threads are not waited for.
5. The processes that the application has started, and their children, get TERM; after one second they get KILL. A
   process with a session of its own (`setsid`, `start_new_session=True`, a daemon) is left alone.

All of it together may take `graceful_timeout` and `drain_spread` and 3 seconds. Then the worker logs where it stands,
and ends; a second later the arbiter sends KILL. QUIT to a worker begins with step 4, which then has a second.

A worker that is killed runs none of this. The processes that it had started are ended when the server stops, and at
once if it was the arbiter that killed it. A process whose parent has ended (`command &` in a shell) is no longer
known to be the worker's; it too is ended when the server stops. All this needs Linux 5.3 or later.

A process that is forked from a worker (`os.fork()`, `multiprocessing` with "fork") keeps no listener, no connection
and no signal handler of the worker. It does have a copy of the event loop and of all greenlets: "spawn" is the better
choice.
"""

#: File name in docs/ -> text.
PAGES = {"settings.md": _SETTINGS, "signals.md": _SIGNALS}


def main(folder: Path) -> None:
    """Write all pages into `folder`."""
    for name, text in PAGES.items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path("docs"))
