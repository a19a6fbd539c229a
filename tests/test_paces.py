"""A test of a time is tried again with longer ones, before it has failed."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.paced("SHORT_S")

SHORT_S = 0.1


def test_that_fails_at_a_quick_pace_passes_at_a_slower_one() -> None:
    assert SHORT_S > 0.2


def test_after_it_the_times_are_what_they_were() -> None:
    assert SHORT_S == 0.1


@pytest.mark.xfail(raises=ConnectionError, strict=True)
def test_that_fails_at_every_pace_fails_as_it_did_at_first() -> None:
    if SHORT_S == 0.1:
        raise ConnectionError
    raise AssertionError


@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
def test_an_error_that_no_time_explains_fails_at_once() -> None:
    assert 1 / (SHORT_S - 0.1)
