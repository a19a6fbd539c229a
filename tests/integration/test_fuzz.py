"""Run every fuzz target briefly; tests/fuzz/README.md explains how to run one for longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.codec_variants import VARIANTS

FUZZ = Path(__file__).parents[1] / "fuzz"
RUNS = 500
PATIENCE_S = 120.0

pytestmark = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")


def run_target(folder: Path, *arguments: str, target: str = "fuzz_codecs.py") -> subprocess.CompletedProcess[str]:
    """Run a target in `folder`; it writes inputs that fail there."""
    return subprocess.run(
        [sys.executable, str(FUZZ / target), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("codec", VARIANTS)
def test_the_fuzzer_finds_no_failure_of_a_codec(codec: str, tmp_path: Path) -> None:
    done = run_target(tmp_path, codec, f"-runs={RUNS}", "-seed=1", "-max_len=200")

    assert done.returncode == 0, done.stderr
    assert f"Done {RUNS} runs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_fuzzer_finds_no_failure_of_the_proxy_header(tmp_path: Path) -> None:
    done = run_target(tmp_path, "-runs=5000", "-seed=1", "-max_len=200", target="fuzz_proxy_protocol.py")

    assert done.returncode == 0, done.stderr
    assert "Done 5000 runs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_codec_is_a_usage_error(tmp_path: Path) -> None:
    done = run_target(tmp_path, "nonsense")

    assert done.returncode == 1
    assert "CODEC is one of raw, lines" in done.stderr
