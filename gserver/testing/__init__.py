"""The test kit: for tests of services and codecs that run on gserver.

    feed(), check_codec()   a codec: the messages of some bytes, and the contract of gserver.codecs
    serve()                 a service on a real socket
    Conversation            a service without a network, with a clock that the test moves
    replay()                a transcript of gserverctl record as a test

A failure is an AssertionError. Nothing here needs pytest; gserver.testing.pytest_plugin has fixtures for it. The server
never imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gserver.testing.codec_checks import Limit, check_codec, feed
    from gserver.testing.conversation import Conversation
    from gserver.testing.live_server import LiveServer, serve
    from gserver.testing.transcript_replay import replay

__all__ = ["Conversation", "Limit", "LiveServer", "check_codec", "feed", "replay", "serve"]

_HOMES = {
    "gserver.testing.codec_checks": ["Limit", "check_codec", "feed"],
    "gserver.testing.conversation": ["Conversation"],
    "gserver.testing.live_server": ["LiveServer", "serve"],
    "gserver.testing.transcript_replay": ["replay"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module 'gserver.testing' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)
