from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from loadtests.host.subprocesses import START_PATIENCE_S, running
from loadtests.servers import prepare
from loadtests.servers.git_build import Build
from loadtests.servers.peer_commands import PEER_COMMANDS
from loadtests.servers.prepare import prepare_server
from loadtests.servers.readiness import Probe
from loadtests.servers.spec import parse_spec
from loadtests.servers.toolchain import Missing
from loadtests.workloads.profiles import PROFILES

PROFILE = PROFILES["echo"]
PEERS = [
    f"{peer}-{service}"
    for peer, commands in PEER_COMMANDS.items()
    for service in ("echo", "json")
    if service in commands
]


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_that_can_run_here_replies_as_the_users_expect(peer: str, tmp_path: Path) -> None:
    try:
        side = prepare_server(parse_spec(f"peer:{peer}"), PROFILE)
    except Missing as lack:
        pytest.skip(str(lack))
    target = side.target(tmp_path)
    assert target.command is not None
    with running(target.command, tmp_path / "log") as process:
        probe = Probe.of(PROFILES[peer.rpartition("-")[2]])
        probe.await_reply(target.address, START_PATIENCE_S, lambda: process.poll() is not None)


def test_each_start_of_a_server_has_its_own_port(tmp_path: Path) -> None:
    side = prepare_server(parse_spec("cmd:serve --at 127.0.0.1:{port} {port}"), PROFILE)
    first, second = side.target(tmp_path), side.target(tmp_path)

    assert first.address != second.address
    assert first.command == ["serve", "--at", f"127.0.0.1:{first.address[1]}", str(first.address[1])]
    assert (first.workers, first.title) == (None, "cmd:serve --at 127.0.0.1:{port} {port}")


def test_gserver_runs_with_this_interpreter_and_the_workers_of_the_profile() -> None:
    side = prepare_server(parse_spec("gserver:echo?greenlets=dedicated"), dataclasses.replace(PROFILE, workers=3))

    assert side.command[:4] == (sys.executable, "-m", "gserver", "echo")
    assert side.command[-1] == "--greenlets=dedicated"
    assert (side.workers, side.title) == (3, "gserver:echo?greenlets=dedicated")


def test_a_commit_runs_its_own_build_and_not_the_gserver_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Build("0123456789ab", tmp_path / "tree", tmp_path / "venv/bin/gserver")
    monkeypatch.setattr(prepare, "build", lambda repository, ref, cache, say: made)
    side = prepare_server(parse_spec("gserver:json@main?workers=2"), PROFILE)

    assert side.command[:4] == ("env", "-u", "PYTHONPATH", str(made.gserver))
    assert side.command[4:7] == ("--chdir", str(made.tree), "json")
    assert (side.workers, side.title) == (2, "gserver:json@0123456789ab?workers=2")
