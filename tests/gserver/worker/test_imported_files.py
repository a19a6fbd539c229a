"""Whether the files that were imported have changed since."""

from __future__ import annotations

import importlib
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gserver.worker.imported_files import ImportBeginning, ImportedFiles


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules, on sys.path."""
    release = tmp_path / "r1"
    release.mkdir()
    (tmp_path / "current").symlink_to("r1")
    (release / "imported_app.py").write_text("VALUE = 1\n")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path / "current"))
    yield release
    for name in set(sys.modules) - before:
        del sys.modules[name]


def settle() -> None:
    """Let the clock of the file system pass: what was written before is older than what follows."""
    time.sleep(0.03)


def record(folder: Path, *names: str) -> ImportedFiles:
    settle()
    began = ImportBeginning.now(str(folder.parent / "current"))
    for name in names:
        importlib.import_module(name)
    recorded = ImportedFiles.record(str(folder.parent / "current"), began)
    settle()
    return recorded


def changed(files: ImportedFiles) -> list[str]:
    return [Path(each).name for each in files.changed() if each is not None]


def test_nothing_has_changed_at_first(folder: Path) -> None:
    files = record(folder, "imported_app")

    assert changed(files) == []
    assert any(path.endswith("current/imported_app.py") for path in files.versions)


def test_there_are_pauses_between_the_files(folder: Path) -> None:
    """A thousand files are looked at: the worker serves meanwhile."""
    files = record(folder, "imported_app")

    assert len(list(files.changed())) >= len(files.versions)


@pytest.mark.parametrize(
    "how", ["in place", "in place, same size and times", "replaced", "replaced, same times", "touched", "removed"]
)
def test_a_changed_file_is_found(folder: Path, how: str) -> None:
    app = folder / "imported_app.py"
    files = record(folder, "imported_app")
    status = app.stat()
    times = (status.st_atime_ns, status.st_mtime_ns)
    if how.startswith("in place"):
        app.write_text("VALUE = 2\n")
    elif how.startswith("replaced"):
        (folder / "new").write_text("VALUE = 2\n")
        (folder / "new").replace(app)
    elif how == "touched":
        os.utime(app)
    else:
        app.unlink()
    if how.endswith("times"):
        os.utime(app, ns=times)

    assert changed(files) == ["imported_app.py"]


def test_a_file_that_changes_while_it_is_imported_stays_changed(folder: Path) -> None:
    """Which of the two versions was imported is not known."""
    (folder / "rewrites.py").write_text("open(__file__, 'a').write('# more')\n")
    files = record(folder, "rewrites")

    assert changed(files) == changed(files) == ["rewrites.py"]


def test_a_file_that_is_imported_later_counts_from_then_on(folder: Path) -> None:
    (folder / "imported_later.py").write_text("VALUE = 1\n")
    files = record(folder, "imported_app")
    importlib.import_module("imported_later")
    assert changed(files) == []
    (folder / "imported_later.py").write_text("VALUE = 2\n")

    assert changed(files) == ["imported_later.py"]


def test_an_unrelated_file_does_not_count(folder: Path) -> None:
    files = record(folder, "imported_app")
    (folder / "imported_app.txt").write_text("data")
    (folder / "never_imported.py").write_text("VALUE = 1\n")

    assert changed(files) == []


def test_a_symbolic_link_to_another_release_is_found(folder: Path) -> None:
    files = record(folder, "imported_app")
    (folder.parent / "r2").mkdir()
    (folder.parent / "r2" / "imported_app.py").write_text("VALUE = 1\n")
    (folder.parent / "next").symlink_to("r2")
    (folder.parent / "next").replace(folder.parent / "current")

    assert "current" in changed(files)
    assert "imported_app.py" in changed(files)


def test_a_link_that_moves_during_the_import_is_found(folder: Path) -> None:
    """The application was imported from the release before, or from both."""
    (folder.parent / "r2").mkdir()
    (folder / "moves.py").write_text(
        "import os, pathlib\nabove = pathlib.Path(__file__).parent.parent\n"
        "(above / 'next').symlink_to('r2')\n(above / 'next').replace(above / 'current')\n"
    )
    files = record(folder, "moves")

    assert "current" in changed(files)


def test_packages_archives_and_compiled_modules_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "imported_package").mkdir()
    (folder / "imported_package" / "__init__.py").write_text("")
    archive = folder / "lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("imported_zipped.py", "VALUE = 1\n")
    monkeypatch.syspath_prepend(str(archive))
    files = record(folder, "imported_package", "imported_zipped")
    assert any(path.endswith(".so") for path in files.versions)
    os.utime(archive)
    os.utime(folder / "imported_package" / "__init__.py")

    assert changed(files) == ["__init__.py", "lib.zip"]


class Odd(ModuleType):
    def __getattr__(self, name: str) -> object:
        return 7 if name in ("__file__", "__loader__") else super().__getattribute__(name)


@pytest.mark.parametrize("file", ["", "relative.py", "/no/such/file.py", "/nul\0/x.py", 7, None])
def test_modules_without_a_usable_file_do_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: object
) -> None:
    odd = ModuleType("odd")
    odd.__file__ = file  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "odd", odd)
    monkeypatch.setitem(sys.modules, "odder", Odd("odder"))
    monkeypatch.setitem(sys.modules, "oddest", object())
    files = record(folder, "imported_app")

    assert changed(files) == []
