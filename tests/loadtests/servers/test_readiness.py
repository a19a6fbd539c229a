"""One real exchange before the swarm: a server is ready only after the expected reply."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from loadtests.host.subprocesses import NotAnswering
from loadtests.servers.readiness import Probe
from loadtests.workloads.profiles import PROFILES
from tests.helpers.loadtests_swarms import Peer
from tests.helpers.processes import GserverProcess

PATIENCE_S = 60.0
ECHO, JSON = Probe.of(PROFILES["echo"]), Probe.of(PROFILES["json"])
MESSAGE = Probe.of(dataclasses.replace(PROFILES["echo"], user="MessageUser", message="PING", expect="PONG"))
UNKNOWN = Probe.of(dataclasses.replace(PROFILES["echo"], user="Own", file="own.py"))


@pytest.mark.parametrize(("app", "probes"), [("echo", [ECHO, UNKNOWN]), ("json", [JSON, UNKNOWN])])
def test_the_exchange_uses_the_protocol_of_the_users(tmp_path: Path, app: str, probes: list[Probe]) -> None:
    with GserverProcess(tmp_path, app) as server:
        for probe in probes:
            probe.await_reply(server.address, PATIENCE_S)


@pytest.mark.parametrize(("app", "probes"), [("json", [ECHO]), ("echo", [JSON, MESSAGE])])
def test_a_server_with_another_protocol_is_an_error_at_once(tmp_path: Path, app: str, probes: list[Probe]) -> None:
    with GserverProcess(tmp_path, app) as server:
        for probe in probes:
            with pytest.raises(NotAnswering, match=f"does not reply as {probe.user} expects"):
                probe.await_reply(server.address, PATIENCE_S)


def test_a_server_that_ended_is_an_error_at_once() -> None:
    with Peer(lambda connection: None) as peer, pytest.raises(NotAnswering, match="ended before it replied"):
        JSON.await_reply(peer.address, PATIENCE_S, lambda: True)


def test_a_server_that_never_replies_is_an_error() -> None:
    with Peer(lambda connection: None) as peer, pytest.raises(NotAnswering, match="does not reply"):
        JSON.await_reply(peer.address, 0.0)


def test_a_wrong_message_is_an_error_before_anything_is_started() -> None:
    with pytest.raises(ValueError, match="--codec"):
        Probe.of(dataclasses.replace(PROFILES["echo"], user="MessageUser", message="x", codec="smoke"))
