"""What a message costs must not creep up: instructions are counted, so that no noise of the machine hides it.

A change that makes a message dearer on purpose raises a bound, and says what it buys; one that makes it cheaper lowers
the bounds. `python -m tests.helpers.instructions` prints the ratios of an interpreter.
"""

from __future__ import annotations

import shutil
import sys

import pytest

from gserver.connection.native_fields import IS_NATIVE
from tests.helpers.instructions import Costs, count

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
]

#: The ratios that were counted, by version; interpreters differ in what makes them fast. A version that is not here is
#: held to the largest. Builds without profile-guided optimization were counted, but for 3.14: there a build with it
#: counted 0.448 and 0.445 compiled, and 1.202 and 0.570 in Python. That is multiplied here by the ratios between 3.11
#: without and with it: 1.06 and 1.10, 1.01 and 1.06.
COUNTED = {
    "compiled": {
        (3, 11): Costs(echo=0.39, json=0.41),
        (3, 12): Costs(echo=0.43, json=0.44),
        (3, 13): Costs(echo=0.45, json=0.46),
        (3, 14): Costs(echo=0.47, json=0.49),
    },
    # On every version 0.12 of an echo is a context for each connection: greenlet's gr_context is read twice a turn.
    "pure": {
        (3, 11): Costs(echo=1.12, json=0.55),
        (3, 12): Costs(echo=1.12, json=0.55),
        (3, 13): Costs(echo=1.15, json=0.56),
        (3, 14): Costs(echo=1.21, json=0.60),
    },
}
#: One build of a version with profile-guided optimization, as Debian's, counts up to 10 % less than one without, which
#: is what stands above.
TOLERANCE = 1.06


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("compiled", marks=pytest.mark.skipif(not IS_NATIVE, reason="gserver is not compiled")),
        pytest.param("pure", marks=[pytest.mark.longhaul] if IS_NATIVE else []),
    ],
)
def how(request: pytest.FixtureRequest) -> str:
    """What serves: the turn in C, or where there is none, or much time, the one in Python."""
    return str(request.param)


@pytest.fixture(scope="module")
def costs(how: str) -> Costs:
    return count(compiled=how == "compiled").costs


def bound(how: str, kind: str) -> float:
    counted = COUNTED[how].get(sys.version_info[:2])
    largest: float = max(getattr(each, kind) for each in COUNTED[how].values())
    return getattr(counted, kind, largest) * TOLERANCE


def test_an_echo_takes_no_more_instructions_than_it_did(costs: Costs, how: str) -> None:
    assert costs.echo <= bound(how, "echo")


def test_a_json_message_takes_no_more_instructions_than_it_did(costs: Costs, how: str) -> None:
    assert costs.json <= bound(how, "json")


def test_the_yardstick_measures_both(costs: Costs, how: str) -> None:
    """A server that answered without doing anything, or a yardstick that had grown, would show here."""
    assert costs.echo > bound(how, "echo") / 2
    assert costs.json > bound(how, "json") / 2
