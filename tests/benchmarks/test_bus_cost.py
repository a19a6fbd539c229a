"""benchmarks.bus_cost, run briefly: both ways deliver to all members, and are compared."""

from __future__ import annotations

import re

import pytest

from benchmarks.bus_cost import main


def test_both_ways_are_measured_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--members", "60", "--rounds", "2", "--messages", "3"]) == 0

    shown = capsys.readouterr().out
    assert re.fullmatch(
        r"conn.send_nowait\(\) in a loop: \d+\.\d+ us of CPU time a delivery \(.*\)\n"
        r"bus.publish\(\): \d+\.\d+ us of CPU time a delivery \(.*\)\n"
        r"ratio within a round: \d+\.\d+ \(.*\)\n",
        shown,
    ), shown
