from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.contestants import (
    APPS,
    GSERVER,
    OURS,
    RECIPES,
    contestants,
    fill,
    parse_peers,
)
from benchmarks.jobs import JOBS, Job
from loadtests.servers import toolchain
from loadtests.servers.toolchain import PEERS, Missing, Toolchain

VALUES = {"port": "4000", "workers": "2", "certfile": "c.pem", "keyfile": "k.pem"}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain in which everything is installed and nothing has to be compiled."""
    monkeypatch.setattr(Toolchain, "command_of", lambda self, program: [f"run-{program}"])
    monkeypatch.setattr("loadtests.servers.peer_commands.check_module", lambda name: None)
    return Toolchain(tmp_path)


def test_ours_is_the_gserver_of_this_interpreter_and_comes_first(tools: Toolchain) -> None:
    found, skipped = contestants(JOBS["echo"], GSERVER, None, {}, tools)

    assert list(found) == [OURS, *JOBS["echo"].peers]
    assert skipped == []
    assert fill(found[OURS], "echo", VALUES) == [
        sys.executable,
        *["-m", "gserver", "echo", "-b", "127.0.0.1:4000", "-w", "2"],
    ]


def test_over_tls_gserver_gets_the_certificate() -> None:
    assert fill(GSERVER, "tls", VALUES)[-4:] == ["--certfile", "c.pem", "--keyfile", "k.pem"]


def test_placeholders_are_replaced_anywhere_in_a_word() -> None:
    assert fill(["serve", "--at=127.0.0.1:{port}", "{app}/{workers}", "{other}"], "json", VALUES) == [
        "serve",
        "--at=127.0.0.1:4000",
        "json/2",
        "{other}",
    ]


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_peer_of_a_job_has_a_server_for_it(job: Job, tools: Toolchain) -> None:
    found, skipped = contestants(job, GSERVER, None, {}, tools)

    assert (list(found), skipped) == ([OURS, *job.peers], [])


@pytest.mark.parametrize("peer", RECIPES)
def test_every_recipe_has_a_known_service_and_an_existing_program(peer: str, tools: Toolchain) -> None:
    for service, recipe in RECIPES[peer].items():
        words = fill(recipe.command(tools), service, VALUES)

        assert service in APPS
        assert not any("{" in word for word in words)
        assert any("4000" in word for word in words)
        if words[0].startswith("run-"):
            assert (PEERS / words[0].removeprefix("run-")).is_file()


def test_variants_are_gserver_in_other_configurations(tools: Toolchain) -> None:
    found, _ = contestants(JOBS["echo"], GSERVER, ("pure", "dedicated", "stream"), {}, tools)

    assert fill(found["dedicated"], "echo", VALUES)[-2:] == ["--greenlets", "dedicated"]
    assert fill(found["pure"], "echo", VALUES)[:3] == ["env", "GSERVER_PURE=1", sys.executable]
    assert fill(found["stream"], "echo", VALUES)[3] == "benchmarks.services:stream_echo"


def test_a_peer_without_a_server_for_the_job_is_skipped_with_the_reason(tools: Toolchain) -> None:
    found, skipped = contestants(JOBS["json"], GSERVER, ("c", "gevent"), {}, tools)

    assert list(found) == [OURS, "gevent"]
    assert skipped == ["c: it has no server for the job json"]


def test_a_peer_with_missing_tools_is_skipped_with_the_reason(
    tools: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command_of(self: Toolchain, program: str) -> list[str]:
        raise Missing("go is not installed")

    monkeypatch.setattr(Toolchain, "command_of", command_of)
    found, skipped = contestants(JOBS["echo"], GSERVER, ("go",), {}, tools)

    assert list(found) == [OURS]
    assert skipped == ["go: go is not installed"]


def test_without_uvloop_its_servers_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    found, skipped = contestants(JOBS["echo"], GSERVER, ("uvloop",), {}, Toolchain(tmp_path))

    assert list(found) == [OURS]
    assert skipped == [f"uvloop: uvloop is not installed for {sys.executable}"]


def test_further_commands_are_measured_under_their_names(tools: Toolchain) -> None:
    found, _ = contestants(JOBS["echo"], ["new", "{port}"], (), {"before": ["old", "{port}"]}, tools)

    assert found == {OURS: ["new", "{port}"], "before": ["old", "{port}"]}


def test_peers_are_a_comma_separated_list() -> None:
    assert parse_peers("node, c,node") == ("node", "c")
    assert parse_peers("") == parse_peers(",") == ()


def test_an_unknown_peer_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ValueError, match="there is no peer 'nodejs'; the peers are c, go, node, uvloop"):
        parse_peers("c,nodejs")
