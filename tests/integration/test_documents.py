"""Follow pages as a reader does: write each file, run each command, and compare the stable part of the output."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.helpers.certificates import make_certificates
from tests.helpers.documents import Reader, commands
from tests.helpers.peers import path_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "document", ["README.md", "docs/services.md", "docs/bus.md", "docs/migrating.md", "docs/tutorials/first-service.md"]
)
def test_every_command_works(tmp_path: Path, document: str) -> None:
    with contextlib.ExitStack() as servers:
        Reader(tmp_path, servers).follow((ROOT / document).read_text())


@pytest.mark.skipif(path_of("node") is None, reason="node is not installed")
def test_node_and_gserver_do_what_the_tutorial_says(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "made")
    (tmp_path / "ca.pem").write_text(Path(files.ca).read_text())
    (tmp_path / "server.pem").write_text(Path(files.combined).read_text())
    with contextlib.ExitStack() as servers:
        Reader(tmp_path, servers).follow((ROOT / "docs/tutorials/from-node.md").read_text())


def test_the_readme_begins_with_make_demo_and_make_test() -> None:
    typed = [command for command, _ in commands((ROOT / "README.md").read_text())]

    assert typed[:2] == ["make demo", "make test"]
