"""Golden files: what an output was when somebody last looked at it. UPDATE_GOLDEN=1 writes them anew, for a look."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def golden(name: str, text: str) -> str:
    """What tests/golden/`name` holds, to which `text` is to be compared."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    return path.read_text()


def assert_golden(name: str, text: str) -> None:
    """`text` is what tests/golden/`name` holds."""
    assert text == golden(name, text)
