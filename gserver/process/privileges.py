"""Resolves user and group names; drops root permanently."""

from __future__ import annotations

import grp
import os
import pwd

from gserver.errors import ConfigError

__all__ = ["drop_privileges", "gid_of", "uid_of"]


def uid_of(user: str | None) -> int | None:
    """Return the number of a user, given by name or number; ConfigError if there is no such user."""
    if user is None:
        return None
    try:
        return _number(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise ConfigError(f"there is no user {user!r}") from None


def gid_of(group: str | None) -> int | None:
    """Return the number of a group, given by name or number; ConfigError if there is no such group."""
    if group is None:
        return None
    try:
        return _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"there is no group {group!r}") from None


def _number(digits: str) -> int:
    """Convert a number; ValueError if it is out of range. 2**32 - 1 means "no change" (chown(2))."""
    number = int(digits)
    if number >= 2**32 - 1:
        raise ValueError(digits)
    return number


def drop_privileges(user: str | None, group: str | None, initgroups: bool) -> None:
    """Change to `user` and `group`, permanently; None: no change. ConfigError if it is not permitted.

    Args:
        initgroups: set the supplementary groups of the user; otherwise only `group`, or none.
    """
    uid, gid = uid_of(user), gid_of(group)
    if uid in (None, os.geteuid()) and gid in (None, os.getegid()):
        return
    try:
        if initgroups and uid is not None:
            os.initgroups(pwd.getpwuid(uid).pw_name, os.getegid() if gid is None else gid)
        elif gid is not None or uid is not None:
            os.setgroups([] if gid is None else [gid])
        if gid is not None:
            os.setgid(gid)
        if uid is not None:
            os.setuid(uid)
    except (OSError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot become user {user or '-'}, group {group or '-'}: {reason}") from error
