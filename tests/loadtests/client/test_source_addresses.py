"""Source addresses: their notation, and how many a load needs."""

from __future__ import annotations

import pytest

from loadtests.client.source_addresses import PORTS_OF_A_SOURCE, loopback_sources, parse_sources


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("", []),
        ("127.0.1.1", ["127.0.1.1"]),
        ("127.0.1.254-127.0.2.1", ["127.0.1.254", "127.0.1.255", "127.0.2.0", "127.0.2.1"]),
        ("127.0.0.9, 127.0.1.1-127.0.1.2", ["127.0.0.9", "127.0.1.1", "127.0.1.2"]),
        ("fd00::1-fd00::2", ["fd00::1", "fd00::2"]),
    ],
)
def test_source_addresses_are_ranges_and_lists(text: str, sources: list[str]) -> None:
    assert parse_sources(text) == sources


@pytest.mark.parametrize(
    "text", ["localhost", "127.0.0.2-127.0.0.1", "127.0.0.1-::1", "127.0.0.1-", "10.0.0.0-11.0.0.0", "1.2.3"]
)
def test_a_wrong_source_address_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"source address(es)? '{text}', expected"):
        parse_sources(text)


def test_more_connections_than_a_source_has_ports_get_more_sources_on_127_8_only() -> None:
    assert loopback_sources("127.0.0.1", PORTS_OF_A_SOURCE) == []
    assert loopback_sources("127.0.0.1", PORTS_OF_A_SOURCE + 1) == ["127.0.1.1", "127.0.1.2"]
    assert len(loopback_sources("127.0.0.1", 100_000)) == 10
    for elsewhere in ("::1", "192.0.2.1", "localhost"):
        assert loopback_sources(elsewhere, 100_000) == []
