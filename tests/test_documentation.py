"""The pages of the project name files that exist, and the map in docs/design.md names every module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS_WITH_PAGES = ("", "docs", "docs/tutorials", "results", "examples")
PAGES = sorted(page for folder in FOLDERS_WITH_PAGES for page in (ROOT / folder).glob("*.md"))
#: Where a path in code formatting may begin: `gserver/cli.py` is a file of the project, `report.html` is not.
FOLDERS = ("gserver", "loadtests", "benchmarks", "tests", "docs", "examples")
#: In instructions these stand for any name.
PLACEHOLDERS = ("PACKAGE", "MODULE", "NAME")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in LINK.findall(without_code(page)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_are_those_of_files(page: Path) -> None:
    paths = [path for path in PATH.findall(without_code(page)) if not any(word in path for word in PLACEHOLDERS)]

    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_has_every_module() -> None:
    (drawn,) = re.findall(r"^```\n(gserver/\n.*?)^```$", (ROOT / "docs/design.md").read_text("utf-8"), re.M | re.S)
    named = set(re.findall(r"\w+", drawn))
    modules = {
        path.stem
        for package in ("gserver", "loadtests")
        for path in (ROOT / package).rglob("*.py")
        if not {"codecs", "peers", "charts"} & set(path.parts)  # "a file each"
    }

    assert modules - named == set()
