"""gserver: the application server for raw TCP in Python.

The public names. Each is imported at its first use, so that the arbiter and the command line do not import gevent. No
submodule may have one of these names: its import would hide the public name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gserver.client import Client, Pool
    from gserver.codecs import (
        Codec,
        ContentLength,
        Delimited,
        JsonContentLength,
        JsonLines,
        LengthPrefixed,
        Lines,
        Malformed,
        MsgPack,
        Netstring,
        OctetCounted,
        ParserCodec,
        Raw,
        VarintPrefixed,
    )
    from gserver.connection.connection import Connection
    from gserver.connection.stream_connection import StreamConnection
    from gserver.errors import (
        CloseReason,
        ConfigError,
        ConnectionClosed,
        FrameTooLarge,
        GServerError,
        HandlerTimeout,
        LimitExceeded,
        NoReply,
        NotSent,
        ProtocolError,
    )
    from gserver.json_service import JsonService
    from gserver.server.tcp_server import TcpServer
    from gserver.service import Fault, Service, stream

__all__ = [
    "Client",
    "CloseReason",
    "Codec",
    "ConfigError",
    "Connection",
    "ConnectionClosed",
    "ContentLength",
    "Delimited",
    "Fault",
    "FrameTooLarge",
    "GServerError",
    "HandlerTimeout",
    "JsonContentLength",
    "JsonLines",
    "JsonService",
    "LengthPrefixed",
    "LimitExceeded",
    "Lines",
    "Malformed",
    "MsgPack",
    "Netstring",
    "NoReply",
    "NotSent",
    "OctetCounted",
    "ParserCodec",
    "Pool",
    "ProtocolError",
    "Raw",
    "Service",
    "StreamConnection",
    "TcpServer",
    "VarintPrefixed",
    "__version__",
    "stream",
]

__version__ = "0.1.0"

_HOMES = {
    "gserver.client": ["Client", "Pool"],
    "gserver.connection.connection": ["Connection"],
    "gserver.errors": [
        "CloseReason",
        "ConfigError",
        "ConnectionClosed",
        "FrameTooLarge",
        "GServerError",
        "HandlerTimeout",
        "LimitExceeded",
        "NoReply",
        "NotSent",
        "ProtocolError",
    ],
    "gserver.codecs": [
        "Codec",
        "ContentLength",
        "Delimited",
        "JsonContentLength",
        "JsonLines",
        "LengthPrefixed",
        "Lines",
        "Malformed",
        "MsgPack",
        "Netstring",
        "OctetCounted",
        "ParserCodec",
        "Raw",
        "VarintPrefixed",
    ],
    "gserver.server.tcp_server": ["TcpServer"],
    "gserver.json_service": ["JsonService"],
    "gserver.service": ["Fault", "Service", "stream"],
    "gserver.connection.stream_connection": ["StreamConnection"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module 'gserver' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)
