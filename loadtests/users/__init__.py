"""The users of a swarm: TcpUser to derive from, and users that need no code.

The public names are imported when they are first used, so that importing the wait times does not load Locust.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtests.users.tcp_user import TcpUser, WrongReply

__all__ = ["TcpUser", "WrongReply"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("loadtests.users.tcp_user"), name)
