"""The title of a process in ps and top, set with the optional package setproctitle."""

from __future__ import annotations

import contextlib

__all__ = ["find_title", "set_title"]


def find_title() -> None:
    """Let setproctitle find the memory of the title, before the environment is changed.

    setproctitle searches backwards from the first variable of the environment, and only once. If that variable is $PWD,
    or one of systemd's, and was changed before, setproctitle finds nothing and sets no title.
    """
    try:
        from setproctitle import getproctitle
    except ImportError:
        return
    with contextlib.suppress(UnicodeDecodeError):  # arguments that are not UTF-8; the memory is found by then
        getproctitle()


def set_title(role: str, name: str) -> None:
    """Set the title to "gserver: ROLE [NAME]". Does nothing without setproctitle, as in gunicorn."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"gserver: {role} [{name}]")
