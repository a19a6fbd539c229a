"""Contexts made before the fork, used in workers that gevent has patched after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    command = [sys.executable, "-m", "tests.helpers.forked_tls", str(tmp_path_factory.mktemp("forked"))]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    outcome: dict[str, list[object]] = json.loads(finished.stdout)
    return outcome


@pytest.mark.parametrize(("version", "at"), [("TLSv1.2", 0), ("TLSv1.3", 2)])
def test_handshakes_succeed_and_sessions_of_one_worker_are_resumed_by_another(
    outcome: dict[str, list[object]], version: str, at: int
) -> None:
    assert outcome["said"][at : at + 2] == [[version, "localhost", False], [version, "localhost", True]]


def test_refusals_are_worded_and_changed_files_taken_in_each_worker(outcome: dict[str, list[object]]) -> None:
    refused, changed = "the handshake failed: unexpected message", ["TLSv1.3", "localhost", False]

    assert outcome["said"][4:] == [refused, changed] * 2
    assert outcome["statuses"] == [0, 0]
