from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests.orchestration import quiet_host as quiet
from loadtests.orchestration.quiet_host import HostBusy, await_quiet, why_busy


@pytest.mark.parametrize(
    ("others", "steal", "why"),
    [
        (0.2, 0.02, ""),
        (0.3, 0.0, "other processes use 15% of its cores (limit 10%)"),
        (0.0, 0.031, "its hypervisor gives 3.1% of its time to others (limit 2%)"),
        (2.0, 0.5, "other processes use 100% of its cores (limit 10%) and its hypervisor gives 50.0% of its time"),
    ],
)
def test_a_host_is_busy_by_the_limits_of_the_verdict(others: float, steal: float, why: str) -> None:
    found = why_busy(others, steal, 2)

    assert found.startswith(why)
    assert bool(found) == bool(why)


def looks(*others_cores: float) -> Iterator[tuple[float, float]]:
    return iter([(cores, 0.0) for cores in others_cores])


def test_a_quiet_host_takes_one_measurement_and_no_line() -> None:
    said: list[str] = []
    host = looks(0.0, 64.0)
    await_quiet(said.append, lambda: next(host))

    assert said == []
    assert next(host) == (64.0, 0.0)


def test_a_busy_host_is_reported_once_and_waited_for() -> None:
    said: list[str] = []
    host = looks(64.0, 64.0, 64.0, 0.0)
    await_quiet(said.append, lambda: next(host))

    assert len(said) == 2
    assert said[0].startswith("the host is too busy: other processes use ")
    assert said[0].endswith("waiting up to 60 s for it to become quiet")
    assert said[1].startswith("the host is quiet, after ")


def test_a_host_that_stays_busy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "PATIENCE_S", 0.0)

    with pytest.raises(HostBusy, match=r"other processes use .* --force makes runs nevertheless"):
        await_quiet(lambda line: None, lambda: (64.0, 0.0))


def test_the_cpu_use_of_other_processes_is_measured() -> None:
    others, steal = quiet._watch()

    assert others >= 0
    assert 0 <= steal <= 1
