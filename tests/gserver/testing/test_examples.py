"""The examples in docs/testing.md and in the docstrings of gserver.testing run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import gserver
from gserver import testing
from gserver.testing import pytest_plugin
from gserver.transcript import data_rows, encode_row, header_row
from tests.helpers.services import make_lines

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


def examples_of(docstring: str) -> str:
    """The indented blocks of code."""
    blocks = re.findall(r"\n\n((?: {4,}[^\n]*\n)+)", inspect.cleandoc(docstring) + "\n")
    return "\n".join(textwrap.dedent(block) for block in blocks)


@pytest.mark.parametrize("name", ["feed", "check_codec", "Limit", "serve", "Conversation", "replay"])
def test_the_examples_of_the_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [header_row("1-1", from_first_byte=True), *data_rows(0, "1-1", "in", b"ping\n")]
    rows += data_rows(0, "1-1", "out", b"pong\n")
    (tmp_path / "ping.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    app = make_lines(lambda line, conn: b"pong")
    code = examples_of(getattr(testing, name).__doc__)
    names: dict[str, Any] = {"app": app, **{each: getattr(gserver, each) for each in gserver.__all__}}
    names.update({each: getattr(testing, each) for each in testing.__all__})

    assert code
    exec(code, names)


@pytest.mark.parametrize("name", testing.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    found = getattr(testing, name)
    methods = [] if not isinstance(found, type) else [each for each in vars(found) if not each.startswith("_")]

    assert found.__doc__
    assert [each for each in methods if callable(getattr(found, each)) and not getattr(found, each).__doc__] == []
