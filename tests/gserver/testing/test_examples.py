"""The examples in docs/testing.md and in the docstrings of gserver.testing run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gserver import testing
from gserver.testing import pytest_plugin

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/testing.md"


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    tests = "\n".join(examples)
    (tmp_path / "test_page.py").write_text(tests)
    (transcript,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    (tmp_path / "session.jsonl").write_text(transcript)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", pytest_plugin.__name__, "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False
    )

    assert f"{tests.count('def test_')} passed" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", testing.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    found = getattr(testing, name)
    methods = [] if not isinstance(found, type) else [each for each in vars(found) if not each.startswith("_")]

    assert found.__doc__
    assert [each for each in methods if callable(getattr(found, each)) and not getattr(found, each).__doc__] == []
