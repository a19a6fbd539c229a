"""benchmarks.swarm_speed, run briefly: every swarm makes exchanges and is compared with the first."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.swarm_speed import main

pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
]
LINE = re.compile(r"^(?P<name>\w.*\S) +(?P<rate>[\d,]+) exchanges/s  x (?P<faster>[\d.]+) .* us of CPU time each", re.M)


def test_each_swarm_has_a_rate_and_a_cost_beside_the_plain_users(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert main(["--rounds", "1", "--seconds", "3", "--connections", "4", "--depth", "8"]) == 0

    found = {line["name"]: line for line in LINE.finditer(capsys.readouterr().out)}
    assert list(found) == ["plain Locust user", "TcpUser", "TcpUser, 8 in flight"]
    assert found["plain Locust user"]["faster"] == "1.00"
    assert all(int(line["rate"].replace(",", "")) > 0 for line in found.values())
