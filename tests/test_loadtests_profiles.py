"""The named workloads and their hashes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadtests.profiles import PROFILES, Profile

SMOKE = PROFILES["smoke"]


def test_smoke_is_50_sockets_for_5_seconds() -> None:
    assert (SMOKE.sockets, SMOKE.duration_s) == (50, 5)


def test_c2k_is_2000_sockets_on_2_workers() -> None:
    assert (PROFILES["c2k"].sockets, PROFILES["c2k"].workers) == (2000, 2)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
def test_every_socket_is_connected_well_before_the_end(profile: Profile) -> None:
    assert profile.sockets / profile.connects_per_s < profile.duration_s / 2


def test_equal_workloads_have_equal_hashes() -> None:
    assert SMOKE.workload_hash == dataclasses.replace(SMOKE).workload_hash
    assert len({profile.workload_hash for profile in PROFILES.values()}) == len(PROFILES)


@pytest.mark.parametrize(
    "change",
    [{"user": "x"}, {"sockets": 1}, {"connects_per_s": 1}, {"rate": 0.5}, {"duration_s": 1}, {"payload_bytes": 1}],
)
def test_a_change_of_the_workload_changes_the_hash(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SMOKE, **change).workload_hash != SMOKE.workload_hash


@pytest.mark.parametrize("change", [{"name": "x"}, {"description": "x"}, {"app": "x"}, {"workers": 9}])
def test_what_serves_it_does_not(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SMOKE, **change).workload_hash == SMOKE.workload_hash
