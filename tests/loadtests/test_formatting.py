"""Numbers and tables for people."""

from __future__ import annotations

import pytest

from loadtests.formatting import (
    aligned,
    change,
    distinct_from,
    number,
    percent,
    quantity,
    render_table,
    render_text_table,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "us", "0 µs"),
        (0.4, "us", "0.40 µs"),
        (123.4, "us", "123 µs"),
        (999.0, "us", "999 µs"),
        (1234.5, "us", "1.23 ms"),
        (69_534.0, "us", "69.5 ms"),
        (2_500_000.0, "us", "2.50 s"),
        (7.5, "ms", "7.50 ms"),
        (0.625, "KiB", "0.62 KiB"),
        (2048.0, "KiB", "2 MiB"),
        (1536.0, "MiB", "1.50 GiB"),
        (41.26, "% of a core", "41.3% of a core"),
        (2000.0, "exchanges/s", "2,000 /s"),
        (2000.0, "tasks/s", "2,000 tasks/s"),
        (36000, "connects", "36,000"),
        (12345.4, "exchanges/s", "12,345 /s"),
        (-5000.0, "us", "-5 ms"),
        (0.0012, "%", "0.0012%"),
    ],
)
def test_a_figure_has_three_digits_in_the_unit_that_suits_it(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.994, "9.99"),
        (9.996, "10.0"),
        (10.04, "10.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (100.4, "100"),
        (999.4, "999"),
        (999.6, "1,000"),
        (1000.4, "1,000"),
        (999_999.7, "1,000,000"),
        (0.994, "0.99"),
        (0.996, "1.00"),
        (0.0996, "0.10"),
        (-999.6, "-1,000"),
        (-0.0, "0"),
    ],
)
def test_the_digits_are_those_of_the_rounded_number(value: float, text: str) -> None:
    assert number(value) == text


def test_what_looks_like_the_same_number_is_written_in_the_same_way() -> None:
    seen: dict[float, str] = {}
    for step in range(1, 40_000):
        value = 1.0003**step / 100 + 1e-9  # from a hundredth to a thousand, and never whole
        text = number(value)
        assert seen.setdefault(float(text.replace(",", "")), text) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (999.4, "us", "999 µs"),
        (999.6, "us", "1.00 ms"),
        (1000.4, "us", "1.00 ms"),
        (999_600.0, "us", "1.00 s"),
        (1023.4, "KiB", "1,023 KiB"),
        (1023.6, "KiB", "1.00 MiB"),
    ],
)
def test_a_number_that_rounds_up_to_the_next_unit_is_written_in_it(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.00996, "1.0%"), (0.0104, "1.0%"), (0.9996, "100%"), (1.004, "100%"), (0.0994, "9.9%"), (0.00994, "0.99%")],
)
def test_a_percentage_too_has_the_digits_of_the_rounded_number(fraction: float, text: str) -> None:
    assert percent(fraction) == text


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


@pytest.mark.parametrize(
    ("value", "limit", "text"), [(97.4, 85, "97"), (85.4, 85, "85.4"), (85.04, 85, "85.04"), (1234.6, 85, "1,235")]
)
def test_a_value_beyond_a_limit_differs_from_it(value: float, limit: float, text: str) -> None:
    assert distinct_from(value, limit) == text


def test_figures_are_aligned_at_the_decimal_point_and_words_to_the_left() -> None:
    figures = ["1,986 /s", "214 µs", "1.30 ms", "0%", "-", "withheld", "at least 85 µs", "+0.77%"]

    assert aligned(figures) == [
        "      1,986 /s   ",
        "        214 µs   ",
        "          1.30 ms",
        "          0%     ",
        "          -      ",
        "   withheld      ",
        "at least 85 µs   ",
        "         +0.77%  ",
    ]


def test_a_column_with_a_word_is_not_a_column_of_figures() -> None:
    assert aligned(["3.11.7", "JsonUser", "200"]) == ["3.11.7  ", "JsonUser", "200     "]
    assert aligned([]) == []


def test_a_table_is_aligned_markdown() -> None:
    assert render_table(
        ["what", "value", "verdict"], [["a", "1.5", "🔴 worse"], ["longer", "12,345", "⚪ better"]]
    ) == (
        "| what   |    value | verdict   |\n"
        "|--------|---------:|-----------|\n"
        "| a      |      1.5 | 🔴 worse  |\n"
        "| longer | 12,345   | ⚪ better |"
    )


def test_the_titles_of_a_table_for_a_terminal_wrap() -> None:
    table = render_text_table(["what", "a long title of figures"], [["a", "1.5"], ["longer", "12,345"]])

    assert table.splitlines() == [
        "        a long title",
        "what      of figures",
        "a                1.5",
        "longer      12,345",
    ]
