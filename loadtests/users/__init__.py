"""Users of a swarm. TcpUser is the class that users derive from; here are also the classes that need no code.

The public names are imported when first used, so that the wait times, which are pure, do not load Locust.
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
