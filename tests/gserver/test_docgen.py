"""The generated pages of docs/ are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from gserver.docgen import PAGES, main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name], "run: python -m gserver.docgen"


def test_it_writes_every_page(tmp_path: Path) -> None:
    main(tmp_path)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == PAGES
