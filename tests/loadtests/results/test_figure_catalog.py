"""The names of figures."""

from __future__ import annotations

import pytest

from loadtests.results.figure_catalog import kind_of, latency_title, title_of
from tests.helpers.loadtests_runs import make_run


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("throughput", "throughput"),
        ("service_p99.9", "p99.9 service time"),
        ("response_SUM_p50", "p50 latency, SUM"),
        ("service_my_type_p50", "p50 service time, my_type"),
        ("first_byte_p90", "p90 time to first byte"),
        ("connect_max", "max connect time"),
        ("answered_my_type", "answered exchanges, my_type"),
        ("server_cpu_per_exchange", "CPU time per exchange"),
        ("a_new_figure", "a new figure"),
    ],
)
def test_every_figure_has_a_title(name: str, title: str) -> None:
    assert title_of(name) == title


def test_unit_and_direction_are_those_of_run_json() -> None:
    for figure in make_run().figures:
        kind = kind_of(figure.name)
        assert (kind.unit, kind.better) == (figure.unit, figure.better), figure.name


@pytest.mark.parametrize(
    ("latency", "title"), [("response", "latency"), ("service_SUM", "service time, SUM"), ("connect", "connect time")]
)
def test_a_latency_has_a_title_without_a_statistic(latency: str, title: str) -> None:
    assert latency_title(latency) == title
