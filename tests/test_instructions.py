"""What a message costs must not creep up: instructions are counted, so that no noise of the machine hides it.

A change that makes a message dearer on purpose raises a bound, and says what it buys; one that makes it cheaper lowers
the bounds. `python -m tests.helpers.instructions` prints the ratios of an interpreter.
"""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.helpers.instructions import Costs, count_costs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
]

#: The ratios that were counted, by version; interpreters differ in what makes them fast. A version that is not here is
#: held to the largest.
COUNTED = {
    (3, 10): Costs(echo=0.74, json=0.37),
    (3, 11): Costs(echo=0.91, json=0.49),
    (3, 12): Costs(echo=0.97, json=0.50),
    (3, 13): Costs(echo=1.02, json=0.52),
}
#: Two builds of one version, with and without profile-guided optimization, differ by 6 % in JSON and 0.3 % in echo.
TOLERANCE = 1.08


@pytest.fixture(scope="module")
def costs() -> Costs:
    return count_costs()


def bound(kind: str) -> float:
    largest = max(getattr(each, kind) for each in COUNTED.values())
    counted: float = getattr(COUNTED.get(sys.version_info[:2]), kind, largest)
    return counted * TOLERANCE


def test_an_echo_takes_no_more_instructions_than_it_did(costs: Costs) -> None:
    assert costs.echo <= bound("echo")


def test_a_json_message_takes_no_more_instructions_than_it_did(costs: Costs) -> None:
    assert costs.json <= bound("json")


def test_the_yardstick_measures_both(costs: Costs) -> None:
    """A server that answered without doing anything, or a yardstick that had grown, would show here."""
    assert costs.echo > bound("echo") / 4
    assert costs.json > bound("json") / 4
