"""The pages of docs/ that are made from the code: `python -m gserver.manual` writes them anew."""

from __future__ import annotations

from pathlib import Path

from gserver.arbiter import signals
from gserver.configuration import markdown_table

__all__ = ["PAGES", "main"]

_SETTINGS = f"""\
# Settings

<!-- Made by `python -m gserver.manual` from gserver/settings.py. -->

A setting's value comes from the last of these that has it: its default; the config file (`-c FILE`, else
`./gserver.conf.py`), a Python file whose names are settings; the variable `GSERVER_CMD_ARGS`, written like a command
line; the command line. Sockets that systemd passes take the place of `bind`. `gserver --print-config` prints what
holds, `gserver --check-config APP` checks it and starts the application as a worker would, up to its probe, without
taking a connection. A reload (HUP) reads the config file again;
what is marked *fixed* changes only with a new start, or an upgrade (USR2). Times are seconds.

{markdown_table()}"""

_SIGNALS = f"""\
# Signals

<!-- Made by `python -m gserver.manual` from gserver/arbiter/signals.py. -->

`gserver --reload-pid FILE` sends HUP to the server with that pid file, waits until the reload is over, and ends with
status 0 if it worked; if not, it says why in one line, and the workers from before go on serving.

{signals.markdown_table()}
To upgrade the interpreter, gserver itself or a fixed setting without a pause: USR2 to the old arbiter; look at the new
one, whose pid file has `.2` behind its name; TERM to the old one, or to the new one if it is not good.
"""

#: File name in docs/ -> text.
PAGES = {"settings.md": _SETTINGS, "signals.md": _SIGNALS}


def main(folder: Path) -> None:
    """Write all pages into `folder`."""
    for name, text in PAGES.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path("docs"))
