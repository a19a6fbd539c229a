"""What a process is called in ps and top."""

from __future__ import annotations

import contextlib

__all__ = ["find_title", "set_title"]


def find_title() -> None:
    """Find the place of the title, before the environment is changed.

    setproctitle looks for it from the first variable of the environment backwards, and does so once. Where that
    variable is $PWD, or one of systemd's, and has been changed by then, it finds nothing and sets no title.
    """
    try:
        from setproctitle import getproctitle
    except ImportError:
        return
    with contextlib.suppress(UnicodeDecodeError):  # arguments that are not UTF-8: it has found the place by then
        getproctitle()


def set_title(role: str, name: str) -> None:
    """Call this process "gserver: ROLE [NAME]". Without the package setproctitle, nothing happens, as in gunicorn."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"gserver: {role} [{name}]")
