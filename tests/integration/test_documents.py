"""Run every command of the README and of two pages in its order, and compare the stable part of the output."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.helpers.documents import Reader, commands, write_modules

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", ["README.md", "docs/services.md", "docs/bus.md"])
def test_every_command_works(tmp_path: Path, document: str) -> None:
    text = (ROOT / document).read_text()
    write_modules(text, tmp_path)
    with contextlib.ExitStack() as servers:
        reader = Reader(tmp_path, servers)
        for command, shown in commands(text):
            reader.type(command, shown)


def test_the_readme_begins_with_make_demo_and_make_test() -> None:
    typed = [command for command, _ in commands((ROOT / "README.md").read_text())]

    assert typed[:2] == ["make demo", "make test"]
