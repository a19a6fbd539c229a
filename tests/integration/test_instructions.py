"""The number of instructions for a message must not grow. Instructions are counted, because time is too noisy.

A change that needs more instructions on purpose raises a bound and explains the benefit; a change that saves some
lowers the bounds. `python -m tests.helpers.instructions` prints the ratios of an interpreter.
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

#: The counted ratios, by version of Python. The largest one applies to a version that is not listed. The counts are of
#: builds without profile-guided optimization (PGO). Only for 3.14 a build with PGO was counted: 0.448 and 0.445
#: compiled, 1.202 and 0.570 in Python. These were multiplied by the ratios of 3.11 without PGO to 3.11 with it: 1.06
#: and 1.10, 1.01 and 1.06.
COUNTED = {
    "compiled": {
        (3, 11): Costs(echo=0.39, json=0.41),
        (3, 12): Costs(echo=0.43, json=0.44),
        (3, 13): Costs(echo=0.45, json=0.46),
        (3, 14): Costs(echo=0.47, json=0.49),
    },
    # In every version 0.12 of an echo is the context of each connection: greenlet's gr_context is read twice a message.
    "pure": {
        (3, 11): Costs(echo=1.12, json=0.55),
        (3, 12): Costs(echo=1.12, json=0.55),
        (3, 13): Costs(echo=1.15, json=0.56),
        (3, 14): Costs(echo=1.21, json=0.60),
    },
}
#: Builds with PGO, such as Debian's, count up to 10 % less than those above.
TOLERANCE = 1.06


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("compiled", marks=pytest.mark.skipif(not IS_NATIVE, reason="gserver is not compiled")),
        pytest.param("pure", marks=[pytest.mark.longhaul] if IS_NATIVE else []),
    ],
)
def how(request: pytest.FixtureRequest) -> str:
    """The message loop: in C if gserver is compiled; in Python otherwise, and in longhaul runs."""
    return str(request.param)


@pytest.fixture(scope="module")
def costs(how: str) -> Costs:
    return count(compiled=how == "compiled").costs


def bound(how: str, kind: str) -> float:
    counted = COUNTED[how].get(sys.version_info[:2])
    largest: float = max(getattr(each, kind) for each in COUNTED[how].values())
    return getattr(counted, kind, largest) * TOLERANCE


def test_an_echo_takes_no_more_instructions_than_before(costs: Costs, how: str) -> None:
    assert costs.echo <= bound(how, "echo")


def test_a_json_message_takes_no_more_instructions_than_before(costs: Costs, how: str) -> None:
    assert costs.json <= bound(how, "json")


def test_the_ratios_are_plausible(costs: Costs, how: str) -> None:
    """Detects a server that does no work, and a yardstick that has grown."""
    assert costs.echo > bound(how, "echo") / 2
    assert costs.json > bound(how, "json") / 2
