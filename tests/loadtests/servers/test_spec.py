from __future__ import annotations

import pytest

from loadtests.servers.peer_commands import PEER_COMMANDS
from loadtests.servers.spec import parse_command, parse_spec


def test_settings_of_gserver_become_flags() -> None:
    spec = parse_spec("gserver:echo?greenlets=dedicated&workers=2&reload=false&preload_app=true")

    assert (spec.kind, spec.served, spec.ref, spec.workers) == ("gserver", "echo", None, 2)
    assert spec.flags == ("--greenlets=dedicated", "--preload")


@pytest.mark.parametrize(
    ("text", "served", "ref"),
    [
        ("gserver:json@HEAD~2", "json", "HEAD~2"),
        ("gserver:json@origin/main?workers=2", "json", "origin/main"),
        ("gserver:shop.tills:make('a@b?', 2)", "shop.tills:make('a@b?', 2)", None),
        ("gserver:shop.tills:make('a@b?')@v1.0?workers=2", "shop.tills:make('a@b?')", "v1.0"),
    ],
)
def test_a_commit_follows_an_at_sign_outside_of_the_arguments_of_a_factory(
    text: str, served: str, ref: str | None
) -> None:
    spec = parse_spec(text)

    assert (spec.served, spec.ref) == (served, ref)


def test_values_are_url_decoded_and_some_settings_may_be_repeated() -> None:
    spec = parse_spec("gserver:echo?raw_env=A=1%262&raw_env=B=x")

    assert spec.flags == ("--env=A=1&2", "--env=B=x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("json", "the server is 'json', expected gserver:APP"),
        ("gserver:", "the server is 'gserver:', expected gserver:APP"),
        ("node:json", "the server is 'node:json', expected gserver:APP"),
        ("gserver:json?worker=2", "unknown setting 'worker', did you mean 'workers'?"),
        ("gserver:json?workers=none", "setting workers is 'none', must be auto, or a whole number"),
        ("gserver:json?workers", "setting workers has no value: write workers=VALUE"),
        ("gserver:json?workers=1&workers=2", "setting workers is given twice"),
        ("gserver:json?preload_app=1", "setting preload_app is '1', must be true or false"),
        ("gserver:json?bind=:1", "setting bind cannot be chosen for a load test"),
        ("gserver:json?on_exit=x", "setting on_exit cannot be chosen for a load test"),
        ("peer:node-tls", "there is no peer 'node-tls': expected one of c-echo, go-echo, node-echo"),
        ("cmd:serve", r"'serve' has no placeholder for its port: {port}"),
        ("cmd:serve '{port}", "No closing quotation"),
    ],
)
def test_an_error_in_a_spec_is_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_spec(text)

    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("peer", [f"{peer}-{service}" for peer in PEER_COMMANDS for service in ("echo", "json")])
def test_every_peer_of_echo_and_json_has_a_spec(peer: str) -> None:
    name, _, service = peer.partition("-")
    if service not in PEER_COMMANDS[name]:
        return

    assert parse_spec(f"peer:{peer}").served == peer


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("gserver:echo", "echo"),
        ("peer:asyncio-echo", "echo"),
        ("cmd:./echo {port}", "echo"),
        ("gserver:json", "json"),
        ("gserver:shop.tills:service", "json"),
    ],
)
def test_the_default_profile_fits_the_server(text: str, profile: str) -> None:
    assert parse_spec(text).profile == profile


def test_a_command_needs_a_placeholder_for_its_port() -> None:
    assert parse_command("serve --name 'a b' -p {port}") == ["serve", "--name", "a b", "-p", "{port}"]
    with pytest.raises(ValueError, match=r"'serve' has no placeholder for its port: \{port\}"):
        parse_command("serve")


def test_a_command_with_an_open_quote_is_refused() -> None:
    with pytest.raises(ValueError, match="No closing quotation"):
        parse_command("serve '{port}")
