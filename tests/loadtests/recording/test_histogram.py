"""Latency histograms: accuracy, exact merging, and the encoding."""

from __future__ import annotations

import math
import random

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from loadtests.recording.histogram import HIGHEST_NS, Histogram

LATENCIES = st.lists(st.integers(1, HIGHEST_NS), min_size=1, max_size=200)


def make_histogram(latencies: list[int]) -> Histogram:
    histogram = Histogram()
    for latency in latencies:
        histogram.record(latency)
    return histogram


def exact_percentile(latencies: list[int], quantile: float) -> int:
    """The nearest-rank percentile."""
    return sorted(latencies)[max(0, math.ceil(quantile / 100 * len(latencies)) - 1)]


@pytest.mark.parametrize("quantile", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentiles_are_within_a_thousandth(quantile: float) -> None:
    seed = random.Random(7)
    latencies = [int(seed.lognormvariate(13, 2)) + 1 for _ in range(20_000)]
    expected = exact_percentile(latencies, quantile)

    assert make_histogram(latencies).percentiles([quantile])[quantile] == pytest.approx(expected, rel=0.001)


@given(LATENCIES)
def test_the_maximum_is_within_a_thousandth(latencies: list[int]) -> None:
    assert make_histogram(latencies).percentiles([100.0])[100.0] == pytest.approx(max(latencies), rel=0.001)


@given(LATENCIES)
def test_mean_and_minimum_are_those_of_the_library(latencies: list[int]) -> None:
    histogram, library = make_histogram(latencies), HdrHistogram(1, HIGHEST_NS, 3)
    for latency in latencies:
        library.record_value(latency)

    assert histogram.mean == pytest.approx(library.get_mean_value(), rel=1e-9)
    assert histogram.mean == pytest.approx(sum(latencies) / len(latencies), rel=0.001)
    assert histogram.least == library.get_min_value()


def test_an_empty_histogram_has_a_mean_of_0() -> None:
    assert (Histogram().mean, Histogram().least) == (0, 0)


@given(LATENCIES, LATENCIES)
def test_merging_is_exact(some: list[int], others: list[int]) -> None:
    merged = make_histogram(some)
    merged.add(make_histogram(others).counts)

    assert merged.counts == make_histogram(some + others).counts


@given(LATENCIES)
def test_encoding_keeps_every_count(latencies: list[int]) -> None:
    histogram = make_histogram(latencies)

    assert Histogram.decode(histogram.encode()).counts == histogram.counts


def test_more_than_an_hour_counts_as_an_hour() -> None:
    assert make_histogram([HIGHEST_NS * 5]).counts.keys() == make_histogram([HIGHEST_NS]).counts.keys()


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert Histogram().percentiles([50.0]) == {}
    assert Histogram().total == 0


@pytest.mark.parametrize("text", ["", "garbage", "HISTFAAAAC", "é"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram.decode(text)


@given(LATENCIES, st.floats(0.01, 100))
def test_percentiles_are_those_of_hdrhistogram(latencies: list[int], quantile: float) -> None:
    histogram = make_histogram(latencies)
    library = HdrHistogram.decode(histogram.encode().encode())

    assert histogram.percentiles([quantile])[quantile] == library.get_value_at_percentile(quantile)


def test_ranks_are_rounded_as_hdrhistogram_rounds_them() -> None:
    histogram = make_histogram(list(range(1, 101)))
    library = HdrHistogram.decode(histogram.encode().encode())
    quantiles = [tenths / 10 for tenths in range(1, 1001)]

    assert histogram.percentiles(quantiles) == {each: library.get_value_at_percentile(each) for each in quantiles}
