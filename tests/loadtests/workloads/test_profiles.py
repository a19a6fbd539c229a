"""The profiles, and the hashes of their workloads."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadtests.workloads.profiles import PROFILES, Profile

SMOKE = PROFILES["smoke"]


def test_smoke_is_50_sockets_for_5_seconds() -> None:
    assert (SMOKE.sockets, SMOKE.duration_s) == (50, 5)


def test_c2k_is_2000_sockets_on_2_workers() -> None:
    assert (PROFILES["c2k"].sockets, PROFILES["c2k"].workers) == (2000, 2)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
def test_every_profile_ramps_before_it_measures_all_its_sockets(profile: Profile) -> None:
    phases = [stage.phase for stage in profile.plan.stages]

    if profile.shape == "search":
        assert profile.objective is not None
        return
    assert list(dict.fromkeys(phases)) == ["ramp", "warmup", "measure", "cooldown"]
    assert max(stage.sockets for stage in profile.plan.stages if stage.phase == "measure") == profile.sockets
    assert profile.description[-1] != "."
    assert profile.purpose


def test_plateaus_are_five_steps() -> None:
    ramp = [stage for stage in PROFILES["c100k"].plan.stages if stage.phase == "ramp"]

    assert [stage.sockets for stage in ramp] == [20_000, 40_000, 60_000, 80_000, 100_000]
    assert all(stage.hold_s >= 5 for stage in ramp)


def test_memory_has_a_warm_up_and_three_plateaus_in_well_under_a_minute() -> None:
    memory = PROFILES["memory"]
    held = [stage for stage in memory.plan.stages if stage.phase in ("ramp", "measure")]

    assert [stage.sockets for stage in held] == [100, 1000, 2000, 4000]
    assert all(stage.hold_s >= 4 for stage in held)
    assert memory.total_s < 40
    assert [stage.sockets for stage in dataclasses.replace(memory, sockets=40).plan.stages][:4] == [40, 10, 20, 40]


def test_the_length_of_a_run_is_computed() -> None:
    """One second of connects, two of warm-up, five of measurement, one of cool-down."""
    assert SMOKE.total_s == 9


def test_equal_workloads_have_equal_hashes() -> None:
    assert SMOKE.workload_hash == dataclasses.replace(SMOKE).workload_hash
    assert len({profile.workload_hash for profile in PROFILES.values()}) == len(PROFILES)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "x"},
        {"sockets": 1},
        {"connects_per_s": 1},
        {"rate": 0.5},
        {"duration_s": 1},
        {"shape": "spike"},
        {"depth": 4},
        {"user": "MessageUser", "message": "x"},
    ],
)
def test_a_change_of_the_workload_changes_the_hash(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SMOKE, **change).workload_hash != SMOKE.workload_hash


@pytest.mark.parametrize(
    "change",
    [{"name": "x"}, {"description": "x"}, {"purpose": "x"}, {"app": "x"}, {"workers": 9}, {"payload_bytes": 1}],
)
def test_the_server_and_unused_parameters_do_not_change_the_hash(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SMOKE, **change).workload_hash == SMOKE.workload_hash


def test_the_payload_of_an_echo_changes_the_hash() -> None:
    echo = PROFILES["echo"]

    assert dataclasses.replace(echo, payload_bytes=1).workload_hash != echo.workload_hash
