"""Output errors never end a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from loadtests.results.store import save_run
from tests.helpers.loadtests_runs import make_run

pytestmark = pytest.mark.long

LABEL = "étiquette 結果"
PLAIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two runs whose labels and folders are not ASCII."""
    folders = [tmp_path / name for name in ("größe", "µs")]
    for folder, scale in zip(folders, (1.0, 1.2), strict=True):
        folder.mkdir()
        save_run(folder, make_run(label=LABEL, scale=scale, errors={"結果: reset": 1}))
    return [str(folder) for folder in folders]


def loadtests(
    *arguments: str, environment: Mapping[str, str] = {}, redirected: str = "", output: object = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with its streams redirected as a shell does."""
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "loadtests", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    return subprocess.run(
        command, stdout=output, stderr=subprocess.PIPE, env={**inherited, **environment}, timeout=60, check=False
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("encoding", ["C", "ascii", "latin-1"])
@pytest.mark.parametrize(
    "command",
    ["report --markdown", "report --json", "compare --force --markdown", "compare --force", "history", "list"],
)
def test_every_command_prints_in_an_encoding_without_these_characters(
    command: str, encoding: str, runs: list[str]
) -> None:
    name, *options = command.split()
    arguments = {"history": [str(Path(runs[0]).parent)], "list": []}.get(name, runs)
    environment = PLAIN if encoding == "C" else {"PYTHONIOENCODING": encoding}
    done = loadtests(name, *options, *arguments, environment=environment)

    assert b"codec" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.decode("ascii" if encoding == "C" else encoding)
    assert b"?" not in done.stdout
    if "markdown" in command:
        assert b"us" in done.stdout.split() or "µs".encode("latin-1") in done.stdout.split()


def test_a_utf_8_terminal_gets_all_characters(runs: list[str]) -> None:
    done = loadtests("report", "--markdown", *runs, environment={"PYTHONIOENCODING": "utf-8"})

    assert LABEL in done.stdout.decode()
    assert "µs" in done.stdout.decode()


def test_lost_output_is_reported_and_the_status_is_not_0(runs: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = loadtests("list", output=full)

    assert done.stderr == b"loadtests: standard output: No space left on device\n"
    assert done.returncode == 2


def test_a_comparison_whose_output_is_lost_does_not_end_as_worse(runs: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = loadtests("compare", "--force", "--fail-on", "never", *runs, output=full)

    assert done.returncode == 2


def test_a_reader_that_ends_changes_neither_files_nor_status(runs: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = loadtests("report", runs[0], output=write)
    finally:
        os.close(write)

    assert b"Broken pipe" not in done.stderr
    assert (Path(runs[0]) / "report.md").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str, runs: list[str]) -> None:
    done = loadtests("report", runs[0], redirected=closed)

    assert b"Traceback" not in done.stdout + done.stderr
    assert (Path(runs[0]) / "report.md").read_text("utf-8").count(LABEL)
