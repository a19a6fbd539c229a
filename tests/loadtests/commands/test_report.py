"""loadtests report, and its errors for folders that are no runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.cli import main
from loadtests.recording.recording import Recording
from loadtests.report.run_data import evidence_of
from tests.helpers.loadtests_reports import PHASES, SECONDS, START, make_evidence, save_evidence, warm_renderer
from tests.helpers.loadtests_runs import make_run

Damage = Callable[[Path], object]


@pytest.fixture(scope="module", autouse=True)
def _renderer() -> None:
    warm_renderer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_evidence(tmp_path / "run", make_evidence())


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A run with two pictures only, which are drawn quickly."""
    recording = Recording()
    recording.health["host"] = {
        second: {"sockets": 1, "cpu_s": second, "lag_ns": 1e6} for second in range(START, START + SECONDS)
    }
    return save_evidence(tmp_path / "bare", evidence_of(make_run(phases=PHASES), recording, []))


def test_markdown_and_json_are_printed_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())

    assert main(["report", str(folder), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# json\n")
    assert main(["report", str(folder), str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert sorted(folder.iterdir()) == before


def test_a_single_run_keeps_its_report_and_its_page(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(bare)]) == 0
    said = capsys.readouterr()
    assert "peak connections" in said.out
    assert str(bare / "report.html") in said.err
    assert (bare / "report.md").read_text().startswith("# json")
    assert "<!doctype html>" in (bare / "report.html").read_text()


def test_several_runs_have_a_page_at_the_given_path(bare: Path, tmp_path: Path) -> None:
    page = tmp_path / "both.html"

    assert main(["report", str(bare), str(bare), "--html", str(page)]) == 0
    assert ">2 runs</h1>" in page.read_text()
    assert not (bare / "report.html").exists()


def test_pictures_are_files_by_name(folder: Path, tmp_path: Path) -> None:
    assert main(["report", str(folder), "--json", "--pictures", str(tmp_path / "pictures")]) == 0
    assert (tmp_path / "pictures" / "heatmap.svg").read_text().startswith("<svg")


def test_pictures_of_several_runs_are_named_after_their_folders(bare: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bare, tmp_path / "other")

    assert main(["report", str(bare), str(other), "--json", "--pictures", str(tmp_path / "to"), "--format", "png"]) == 0
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert names == {"bare-load.png", "other-load.png", "bare-generator.png", "other-generator.png"}


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:200])


def changed(name: str, old: str, new: str) -> Damage:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "run.json").unlink(), "not the folder of a run (there is no run.json)"),
        (write("run.json", "[1]"), "run.json is not of a gserver load test"),
        (write("run.json", '{"kind": "k6"}'), "run.json is not of a gserver load test"),
        (write("run.json", ""), "cannot be read"),
        (cut("run.json"), "cannot be read"),
        (changed("run.json", '"schema_version": 3', '"schema_version": 1'), "has schema version 1"),
        (changed("run.json", '"figures": [', '"figures": [1, '), "run.json is damaged"),
        (changed("run.json", '"measure": [', '"measure": [1, 2, '), "run.json is damaged"),
        (write("client.json", '{"cells": 1, "health": {}}'), "is damaged"),
        (cut("client.json"), "cannot be read"),
        (changed("client.json", '"service_hdr": "', '"service_hdr": "AAAA'), "is damaged"),
        (changed("client.json", '"lag_ns"', '"lag"'), "client.json is damaged"),
        (write("samples.jsonl", '{"time_s": 1, "processes": [{"pid": "x"}]}\n'), "samples.jsonl is damaged"),
        (write("samples.jsonl", "7\n"), "samples.jsonl is damaged"),
    ],
)
def test_a_folder_that_is_no_run_is_one_line(
    folder: Path, damage: Damage, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)

    assert main(["report", str(folder), "--html", str(folder / "page.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("loadtests: ")
    assert says in error
    assert str(folder) in error
    assert error.count("\n") == 1
    assert not (folder / "page.html").exists()


def test_a_sample_that_was_cut_by_a_crash_is_left_out(bare: Path) -> None:
    (bare / "samples.jsonl").write_text('{"time_s": 1020, "proc')

    assert main(["report", str(bare), "--html", str(bare / "page.html")]) == 0


def test_a_run_with_figures_only_has_a_page_that_names_the_missing_files(folder: Path) -> None:
    (folder / "client.json").unlink()
    (folder / "samples.jsonl").unlink()

    assert main(["report", str(folder), "--html", str(folder / "page.html")]) == 0
    text = (folder / "page.html").read_text()
    assert "There is no chart of latency: client.json is missing in the folder of the run." in text
    assert "There is no chart of the server: samples.jsonl is missing in the folder of the run." in text
    assert "client.json is missing and samples.jsonl is missing in the folder of the run." in text
    assert "exchange succeeded" not in text
    assert "not sampled" not in text


def test_a_run_of_schema_2_has_a_page(folder: Path) -> None:
    changed("run.json", '"schema_version": 3', '"schema_version": 2')(folder)

    assert main(["report", str(folder), "--json", "--html", str(folder / "page.html")]) == 0
    assert "By message type" in (folder / "page.html").read_text()


def test_a_page_that_cannot_be_written_is_one_line(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(bare), "--json", "--html", "/dev/null/page.html"]) == 2
    assert capsys.readouterr().err == "loadtests: not written: /dev/null/page.html: Not a directory\n"


@pytest.mark.parametrize("wrong", [["--markdown", "--json"], ["--format", "gif"], []])
def test_wrong_usage_is_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", *(["run"] if wrong else []), *wrong])

    assert ended.value.code == 2
    assert "usage: loadtests report" in capsys.readouterr().err
