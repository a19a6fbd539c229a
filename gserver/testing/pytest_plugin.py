"""Fixtures for pytest, which finds this module by the entry point `pytest11` of the distribution.

Every pytest of an environment with gserver imports this module, whether it uses it or not. So the module imports
nothing but pytest until a fixture is used. `-p no:gserver` turns it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gserver.testing.conversation import Conversation
    from gserver.testing.live_server import LiveServer

__all__ = ["gserver_conversation", "gserver_serve"]


@pytest.fixture
def gserver_serve() -> Iterator[Callable[..., LiveServer]]:
    """gserver.testing.serve(): a function that starts a server, which ends with the test.

    def test_ping(gserver_serve):
        server = gserver_serve(app, idle_timeout=60)
        assert server.connect().call(b"ping") == b"pong"

    The arguments are those of gserver.testing.serve(). The errors of the service fail the test at its end.
    """
    from gserver.testing.live_server import serve

    with ExitStack() as stack:

        def start(*arguments: object, **settings: object) -> LiveServer:
            return stack.enter_context(serve(*arguments, **settings))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def gserver_conversation() -> Iterator[Callable[..., Conversation]]:
    """gserver.testing.Conversation: a function that opens one, which ends with the test.

    def test_ping(gserver_conversation):
        conv = gserver_conversation(app, idle_timeout=60)
        assert conv.message(b"ping") == [b"pong"]

    The arguments are those of Conversation. The errors of the service fail the test at its end.
    """
    from gserver.testing.conversation import Conversation

    with ExitStack() as stack:

        def start(*arguments: object, **settings: object) -> Conversation:
            return stack.enter_context(Conversation(*arguments, **settings))  # type: ignore[arg-type]

        yield start
