"""Follow pages as a reader does: write each file, run each command, and compare the stable part of the output."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.helpers.documents import Reader, commands

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", ["README.md", "docs/services.md", "docs/tutorials/first-service.md"])
def test_every_command_works(tmp_path: Path, document: str) -> None:
    with contextlib.ExitStack() as servers:
        Reader(tmp_path, servers).follow((ROOT / document).read_text())


def test_the_readme_begins_with_make_demo_and_make_test() -> None:
    typed = [command for command, _ in commands((ROOT / "README.md").read_text())]

    assert typed[:2] == ["make demo", "make test"]
