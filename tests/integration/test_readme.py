"""Run every command of the README in its order, and compare the stable part of the output."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.helpers.documents import Reader, commands, write_modules

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    write_modules(README, tmp_path)
    with contextlib.ExitStack() as servers:
        reader = Reader(tmp_path, servers)
        for command, shown in commands(README):
            reader.type(command, shown)


def test_the_readme_begins_with_make_demo_and_make_test() -> None:
    typed = [command for command, _ in commands(README)]

    assert typed[:2] == ["make demo", "make test"]
