"""Figures and tables as a person reads them."""

from __future__ import annotations

import pytest

from loadtests.text import change, human, render_table, title_of


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "us", "0 us"),
        (2000.0, "exchanges/s", "2,000 exchanges/s"),
        (1234.5, "us", "1,234 us"),
        (0.625, "KiB", "0.62 KiB"),
        (41.26, "% of a core", "41.3% of a core"),
        (123.4, "us", "123 us"),
    ],
)
def test_a_figure_has_its_unit_and_no_false_precision(value: float, unit: str, text: str) -> None:
    assert human(value, unit) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0%"),
        (-0.0012, "-0.12%"),
        (0.0525, "+5.2%"),
        (-0.5, "-50%"),
        (3.333, "+333%"),
        (9.994, "+999%"),
        (10.0, "11x"),
        (22.13, "23.1x"),
        (276.38, "277x"),
        (4_999.0, "5,000x"),
    ],
)
def test_a_change_is_in_percent_until_it_is_tenfold(fraction: float, text: str) -> None:
    assert change(fraction) == text


def test_a_table_is_aligned_markdown() -> None:
    assert render_table(["what", "value"], [["a", "1"], ["longer", "12,345"]]) == (
        "| what   |  value |\n|--------|-------:|\n| a      |      1 |\n| longer | 12,345 |"
    )


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("throughput", "throughput"),
        ("service_p99.9", "service time p99.9"),
        ("response_SUM_p50", "response time p50, SUM"),
        ("service_my_type_p50", "service time p50, my_type"),
        ("first_byte_p90", "first byte p90"),
        ("connect_max", "connect max"),
        ("server_cpu_per_exchange", "server: processor time per exchange"),
    ],
)
def test_every_figure_has_a_title(name: str, title: str) -> None:
    assert title_of(name) == title
