"""Compare an output with a file of tests/golden/. UPDATE_GOLDEN=1 rewrites the files; review the changes."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def golden(name: str, text: str) -> str:
    """Return the content of tests/golden/`name`; with UPDATE_GOLDEN, write `text` there first."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    return path.read_text()


def assert_golden(name: str, text: str) -> None:
    """Check that `text` is the content of tests/golden/`name`."""
    assert text == golden(name, text)
