"""The public names that users import: none may be lost, and none may change its identity."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import gserver
from gserver import codecs, errors, framing

GSERVER = {
    *("Client", "CloseReason", "Codec", "ConfigError", "Connection", "ConnectionClosed", "ContentLength", "Delimited"),
    *("Fault", "FrameTooLarge", "GServerError", "HandlerTimeout", "JsonContentLength", "JsonLines", "JsonService"),
    *("LengthPrefixed", "LimitExceeded", "Lines", "Malformed", "MsgPack", "Netstring", "NoReply", "NotSent"),
    *("OctetCounted", "ParserCodec", "Pool", "ProtocolError", "Raw", "Service", "StreamConnection", "TcpServer"),
    *("VarintPrefixed", "__version__", "stream"),
}
ERRORS = {
    *("CloseReason", "ConfigError", "ConnectionClosed", "DeclarationError", "FrameTooLarge", "GServerError"),
    *("HandlerTimeout", "IncompleteMessage", "InvalidHeader", "LimitExceeded", "MessageTimeout", "NoReply"),
    *("NotSent", "ProtocolError", "ProxyError", "TlsError"),
}
CODECS = {
    *("CODECS", "Codec", "ContentLength", "Delimited", "JsonContentLength", "JsonLines", "LengthPrefixed", "Lines"),
    *("Malformed", "MsgPack", "Netstring", "OctetCounted", "ParserCodec", "Raw", "VarintPrefixed", "codec_named"),
}
PUBLIC = {
    "gserver": GSERVER,
    "gserver.errors": ERRORS,
    "gserver.codecs": CODECS,
    "gserver.framing": CODECS,
    "gserver.bus": {"listen", "publish", "subscribe", "unsubscribe"},
    "gserver.offload": {"Died", "Full", "Timeout", "process", "thread"},
    "loadtests.users": {"TcpUser", "WrongReply"},
    "loadtests.stock": {"EchoUser", "JsonUser", "MessageUser"},
}


@pytest.mark.parametrize(
    "module", ["gserver", "gserver.errors", "gserver.codecs", "gserver.framing", "gserver.offload", "gserver.bus"]
)
def test_a_module_exports_exactly_its_public_names(module: str) -> None:
    exported = importlib.import_module(module).__all__

    assert sorted(exported) == sorted(PUBLIC[module])


@pytest.mark.parametrize("name", sorted(GSERVER))
def test_every_name_of_gserver_can_be_imported(name: str) -> None:
    assert getattr(gserver, name) is not None


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_is_defined_in_gserver_errors(name: str) -> None:
    """Tracebacks and pickles contain the module of a class."""
    assert getattr(errors, name).__module__ == "gserver.errors"


@pytest.mark.parametrize("name", sorted(CODECS))
def test_framing_has_the_same_objects_as_codecs(name: str) -> None:
    assert getattr(framing, name) is getattr(codecs, name)


@pytest.mark.parametrize("name", sorted(GSERVER & (ERRORS | CODECS)))
def test_gserver_has_the_same_objects_as_errors_and_codecs(name: str) -> None:
    assert getattr(gserver, name) is getattr(errors if name in ERRORS else codecs, name)


@pytest.mark.parametrize("module", ["loadtests.users", "loadtests.stock"])
def test_the_users_of_load_tests_can_be_imported(module: str) -> None:
    """In a process of its own, because Locust applies gevent's monkey-patching when it is imported."""
    names = sorted(PUBLIC[module])
    ended = _python("-c", f"from {module} import {', '.join(names)}, __all__; print(*sorted(__all__))")

    assert ended.stdout.split() == names, ended.stderr


def test_the_client_is_a_command() -> None:
    ended = _python("-m", "gserver.client", "--help")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("usage: python -m gserver.client ")


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
