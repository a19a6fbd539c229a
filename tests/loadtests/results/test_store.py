"""The folder of a run: whole, or one clear line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from loadtests.recording.recording import Recording
from loadtests.results.store import (
    ResultError,
    could_not_write,
    is_kept,
    load_recording,
    load_run,
    load_samples,
    save_run,
    write_whole,
)
from tests.helpers.loadtests_runs import make_run


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    run = make_run(label="x", errors={"SUM: reset": 1}, warnings=["w"])
    save_run(tmp_path, run)

    assert load_run(tmp_path) == run
    assert load_run(tmp_path).path == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_whole(path, "old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(path, "new")

    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_what_cannot_be_written_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = tmp_path / "nowhere" / "report.md"

    assert could_not_write(lambda: write_whole(lost, "text"))
    assert capsys.readouterr().err == f"loadtests: not written: {lost}: No such file or directory\n"
    assert not could_not_write(lambda: write_whole(tmp_path / "report.md", "text"))


def test_a_run_is_kept_once_it_has_its_run_json(tmp_path: Path) -> None:
    run = dataclasses.replace(make_run(), path=tmp_path)

    assert not is_kept(run)
    save_run(tmp_path, run)
    assert is_kept(run)


def test_a_label_that_the_locale_could_not_decode_is_kept_as_what_it_is(tmp_path: Path) -> None:
    label = "étiquette 結果"
    save_run(tmp_path, make_run(label=label.encode().decode("ascii", "surrogateescape")))

    assert load_run(tmp_path).label == label
    assert label in (tmp_path / "run.json").read_text("utf-8")


def broken(**changes: Any) -> str:
    """The text of a run.json of which something was changed; None takes it out."""
    values = dataclasses.asdict(make_run()) | {"kind": "gserver load test run", "schema_version": 2} | changes
    return json.dumps({key: value for key, value in values.items() if value is not None and key != "path"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "not the folder of a run (there is no run.json)"),
        ("", "cannot be read"),
        ('{"kind": "gserver load', "cannot be read"),
        ("[]", "run.json is not of a gserver load test"),
        (broken(kind="another"), "run.json is not of a gserver load test"),
        (broken(schema_version=1), "versions 2 to 3: make the run again"),
        (broken(schema_version=4), "schema version 4, and this loadtests reads versions 2 to 3: upgrade loadtests"),
        (broken(schema_version=None), "run.json has schema version None"),
        (broken(label=None), "missing required field `label`"),
        (broken(figures=3), "run.json is damaged"),
        (broken(figures=[{"nom": 1}]), "run.json is damaged"),
        (broken(figures=[{"name": "x", "value": "1", "unit": "us"}]), "`$.figures[0].value`"),
        (broken(figures=[{"name": "x", "value": float("inf"), "unit": "us"}]), "cannot be read"),
        (broken(workload=3), "`$.workload`"),
        (broken(workload={}), "its workload has no number of sockets"),
        (broken(environment=[]), "`$.environment`"),
        (broken(errors={"connect: refused": "many"}), "`$.errors[...]`"),
        (broken(warnings=3), "`$.warnings`"),
        (broken(phases={"measure": ["1", 2]}), "`$.phases[...][0]`"),
        (broken(verdict=None), "missing required field `verdict`"),
        (broken(verdict={"state": "fine"}), "Invalid enum value 'fine' - at `$.verdict.state`"),
    ],
)
def test_a_broken_folder_is_one_clear_line(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)

    with pytest.raises(ResultError) as caught:
        load_run(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cells": {"SUM": {"1": {}}}, "health": {}}', '{"cells": 1, "health": 2}']
)
def test_a_broken_recording_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "client.json"
    path.write_text(text)

    with pytest.raises(ResultError, match=r"client\.json"):
        load_recording(path)


def test_a_missing_recording_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="the swarm left no recording"):
        load_recording(tmp_path / "client.json")


def test_a_recording_is_read_back(tmp_path: Path) -> None:
    recording = Recording()
    recording.succeeded("SUM", 10**9, 5)
    (tmp_path / "client.json").write_text(json.dumps(recording.to_json()))

    assert load_recording(tmp_path / "client.json").to_json() == recording.to_json()


def test_samples_end_where_a_crash_cut_them(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"time_s": 1}\n{"time_s": 2}\n{"time_')

    assert load_samples(path) == [{"time_s": 1}, {"time_s": 2}]
    assert load_samples(tmp_path / "nothing.jsonl") == []


def test_memory_per_connection_of_schema_2_is_no_headline() -> None:
    run = make_run()

    assert run.headline("server_rss_per_socket")
    assert dataclasses.replace(run, schema=2).headline("server_rss_per_socket") is None
    assert dataclasses.replace(run, schema=2).figure("server_rss_per_socket")
