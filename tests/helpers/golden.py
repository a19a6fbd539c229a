"""Golden files: what an output was when somebody last looked at it. UPDATE_GOLDEN=1 writes them anew, for a look."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def assert_golden(name: str, text: str) -> None:
    """`text` is what tests/golden/`name` holds."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
