"""Run every command of docs/services.md with its services, and compare the output."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.helpers.documents import Reader, commands, write_modules

SERVICES = (Path(__file__).parents[2] / "docs" / "services.md").read_text()


def test_every_command_works_with_the_services_of_the_document(tmp_path: Path) -> None:
    write_modules(SERVICES, tmp_path)
    with contextlib.ExitStack() as servers:
        reader = Reader(tmp_path, servers)
        for command, shown in commands(SERVICES):
            reader.type(command, shown)
