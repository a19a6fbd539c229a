from __future__ import annotations

from benchmarks.processors import describe, place
from loadtests.host.cpu_affinity import Cores


def test_server_and_load_have_a_core_each() -> None:
    cores = place([2, 5, 7], 1)

    assert cores == Cores((2,), (7,))
    assert describe(cores) == "cores: server on 2, generator on 7"


def test_if_there_is_only_one_core_they_share_it() -> None:
    cores = place([3], 1)

    assert cores == Cores((3,), (3,))
    assert describe(cores) == "server and load share core 3, the only one"


def test_a_server_with_several_workers_shares_its_cores_with_the_load() -> None:
    assert place([0, 1, 2], 2) == Cores((0, 1), (0, 1))


def test_with_too_few_cores_there_is_no_placement() -> None:
    assert place([0], 2) is None
