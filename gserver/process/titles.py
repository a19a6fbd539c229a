"""What a process is called in ps and top."""

from __future__ import annotations

__all__ = ["set_title"]


def set_title(role: str, name: str) -> None:
    """Call this process "gserver: ROLE [NAME]". Without the package setproctitle, nothing happens, as in gunicorn."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"gserver: {role} [{name}]")
