"""The marker `paced`: a test that fails runs again with longer times."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.paced("SHORT_S")

SHORT_S = 0.1


def test_a_failure_with_short_times_is_followed_by_longer_times() -> None:
    assert SHORT_S > 0.2


def test_the_original_times_are_restored() -> None:
    assert SHORT_S == 0.1


@pytest.mark.xfail(raises=ConnectionError, strict=True)
def test_if_all_attempts_fail_the_first_failure_is_reported() -> None:
    if SHORT_S == 0.1:
        raise ConnectionError
    raise AssertionError


@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
def test_other_errors_fail_at_once() -> None:
    assert 1 / (SHORT_S - 0.1)
