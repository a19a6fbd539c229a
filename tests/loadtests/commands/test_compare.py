"""loadtests compare: the sides and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loadtests.cli import main
from loadtests.comparison.noise_floor import NoiseFloor, load_noise, save_noise
from loadtests.results.store import ResultError, save_run
from tests.helpers.comparisons import NOISE, run_of, simulated
from tests.helpers.loadtests_reports import warm_renderer

Printed = pytest.CaptureFixture[str]
WITHOUT_PAIRS = (
    '{"kind": "gserver load test noise floor", "schema_version": 1, "workload_hash": "", "environment": {},'
    ' "pairs": 0, "floors": {}}'
)


@pytest.fixture(scope="module", autouse=True)
def _renderer() -> None:
    warm_renderer()


def save_sides(folder: Path, runs: int, change: float = 0.0, seed: int = 1, scale: float = 0.02) -> None:
    """A folder of runs for each side, with almost no noise."""
    for name, side in zip("ab", simulated(np.random.default_rng(seed), runs, change, scale), strict=True):
        for number, run in enumerate(side.runs):
            place = folder / name / f"{name}{number:02}"
            place.mkdir(parents=True)
            save_run(place, run)


def save_ab(folder: Path, pairs: int, **changes: object) -> None:
    for side in "ab":
        for place in (folder / side).iterdir():
            place.rename(folder / place.name)
    made = {"pairs": [[f"a{number:02}", f"b{number:02}"] for number in range(pairs)], "order": [], "seed": 1, **changes}
    (folder / "ab.json").write_text(json.dumps(made))


@pytest.mark.parametrize(
    ("runs", "change", "options", "status"),
    [
        (6, 0.0, [], 0),
        (6, -0.1, [], 0),
        (6, 0.1, [], 1),
        (6, 0.1, ["--fail-on", "never"], 0),
        (6, 0.1, ["--band", "20%"], 0),
        (6, 0.0, ["--fail-on", "inconclusive"], 0),
        (3, 0.1, [], 3),
        (3, 0.1, ["--fail-on", "never"], 0),
        (1, 0.1, [], 3),
    ],
)
def test_the_exit_status_depends_on_the_verdict(
    tmp_path: Path, runs: int, change: float, options: list[str], status: int
) -> None:
    save_sides(tmp_path, runs, change)

    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *options]) == status


def test_sides_are_folders_or_lists_of_runs(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 6, 0.1)
    lists = [["--" + side, *map(str, sorted((tmp_path / side).iterdir()))] for side in "ab"]

    assert main(["compare", *lists[0], *lists[1], "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    folders = json.loads(capsys.readouterr().out)
    assert listed["figures"] == folders["figures"]
    assert (listed["a"]["title"], folders["a"]["title"]) == ("a00 and 5 more", "a")


def test_a_folder_of_ab_is_compared_in_pairs(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 10, 0.1)
    save_ab(tmp_path, 10, a="main", b="branch")

    assert main(["compare", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["paired"], found["alpha"], found["b"]["title"]) == (True, 0.05, "branch")


def test_several_looks_make_the_test_stricter(tmp_path: Path, capsys: Printed) -> None:
    """Ten pairs can suffice for eight figures, but not at the first of three looks in a plan of twenty pairs."""
    save_sides(tmp_path, 10, 0.1)
    save_ab(tmp_path, 10, max_pairs=20, looks=3)

    assert main(["compare", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["alpha"] == pytest.approx(0.0125)


def several(folder: Path, *changes: float) -> list[str]:
    for number, change in enumerate(changes):
        save_sides(folder / str(number), 10, change)
        save_ab(folder / str(number), 10, a="ours", b=f"theirs-{number}")
    return [str(folder / str(number)) for number in range(len(changes))]


@pytest.mark.parametrize(("changes", "status"), [((0.0, 0.1), 1), ((-0.1, 0.0), 0)])
def test_several_comparisons_have_a_line_each_and_the_worst_status(
    tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch, changes: tuple[float, ...], status: int
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # lines are not wrapped
    folders = several(tmp_path, *changes)

    assert main(["compare", *folders]) == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["ours", "theirs-0"], ["ours", "theirs-1"]]
    assert ("worse" if status else "better") in lines[2 if status else 1]
    assert main(["compare", *folders, "--markdown"]) == status
    assert "| ours | theirs-1 |" in capsys.readouterr().out
    assert main(["compare", *folders, "--json"]) == status
    assert [each["b"]["title"] for each in json.loads(capsys.readouterr().out)] == ["theirs-0", "theirs-1"]


def test_several_comparisons_have_a_page_and_pictures(tmp_path: Path, capsys: Printed) -> None:
    folders = several(tmp_path, 0.0, 0.1)
    page, pictures = tmp_path / "page.html", tmp_path / "pictures"

    assert main(["compare", *folders, "--html", str(page), "--pictures", str(pictures)]) == 1
    assert "theirs-1" in capsys.readouterr().out
    text = page.read_text()
    assert "2 comparisons" in text
    assert "1: theirs-0 against ours" in text
    assert "2: theirs-1 against ours" in text
    assert {path.name for path in pictures.iterdir()} >= {"1-0-verdicts.svg", "2-1-verdicts.svg"}


def test_several_comparisons_take_no_noise_floor(tmp_path: Path, capsys: Printed) -> None:
    folders = several(tmp_path, 0.0, 0.0)

    assert main(["compare", *folders, "--noise", str(tmp_path / "noise.json")]) == 2
    assert "pairs show their own noise" in capsys.readouterr().err


def test_different_workloads_are_compared_only_by_force(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 6)
    for name in ("c", "c/1"):
        (tmp_path / name).mkdir()
    other = run_of({}, 1)
    save_run(tmp_path / "c" / "1", type(other)(**{**vars(other), "workload_hash": "f", "workload": {"sockets": 9}}))
    sides = [str(tmp_path / "a"), str(tmp_path / "c")]

    assert main(["compare", *sides]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("loadtests: the workloads differ")
    assert main(["compare", *sides, "--force"]) == 3
    assert "NOT COMPARABLE" in capsys.readouterr().out


def test_a_noise_floor_is_for_single_runs_only(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 2)
    save_noise(tmp_path / "noise.json", NoiseFloor("w", {}, 20, {"throughput": 0.02}))
    noise = ["--noise", str(tmp_path / "noise.json")]

    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *noise]) == 2
    assert "one run against one, not 2 against 2" in capsys.readouterr().err
    save_ab(tmp_path, 2)
    assert main(["compare", str(tmp_path), *noise]) == 2
    assert "pairs show their own noise" in capsys.readouterr().err


def test_single_runs_are_compared_by_the_noise_floor(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 1, 0.1)
    run = run_of({})
    floor = NoiseFloor(run.workload_hash, run.environment, 20, dict.fromkeys(NOISE, 0.01), run.schema)
    save_noise(tmp_path / "noise.json", floor)
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--noise", str(tmp_path / "noise.json")]

    assert load_noise(tmp_path / "noise.json") == floor
    assert main(command) == 1
    save_noise(tmp_path / "noise.json", NoiseFloor(run.workload_hash, {"cores": 64}, 20, floor.floors, run.schema))
    assert main(command) == 2
    assert "noise floor is of another host: cores 64, not 2" in capsys.readouterr().err
    save_noise(tmp_path / "noise.json", NoiseFloor("f", run.environment, 20, floor.floors))
    assert main(command) == 2
    assert "the noise floor is of workload f" in capsys.readouterr().err
    save_noise(tmp_path / "noise.json", NoiseFloor(run.workload_hash, run.environment, 20, floor.floors, 2))
    assert main(command) == 2
    assert "the noise floor is of runs with schema 2 of run.json, the run has 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("{}", "is not a noise floor"),
        ('{"kind": "gserver load test noise floor", "schema_version": 9}', "has schema version 9"),
        ('{"kind": "gserver load test noise floor", "schema_version": 1}', "is damaged: Object missing required field"),
        (WITHOUT_PAIRS, "is damaged: it has 0 pairs"),
    ],
)
def test_a_broken_noise_floor_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "noise.json"
    path.write_text(text)

    with pytest.raises(ResultError, match=says) as caught:
        load_noise(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give two folders, or --a RUN... and --b RUN..., or the one folder of `loadtests ab`"),
        (["a", "b", "c"], "give two folders"),
        (["a", "--b", "b"], "give two folders"),
        (["--a", "a"], "give two folders"),
        (["nowhere", "b"], "nowhere: not the folder of a run (there is no run.json)"),
        (["a"], "a: not a folder of `loadtests ab` (there is no ab.json)"),
        (["a/a00"], "a/a00 is one run: there is nothing to compare it with"),
        (["--a", "a/a00", "a/a00", "--b", "b"], "a/a00 and others: a side has the same run more than once"),
        (["ab", "b"], "ab has pairs of `loadtests ab`, which are both sides: give no other side"),
        (["ab"], "ab/ab.json cannot be read"),
        (["empty", "b"], "empty: not the folder of a run"),
        (["cut", "b"], "cut/1/run.json cannot be read"),
        (["old", "b"], "old: run.json has schema version 0"),
        (["foreign", "b"], "foreign: run.json is not of a gserver load test"),
        (["half", "b"], "half/client.json is damaged"),
        (["a", "b", "--noise", "a"], "a cannot be read"),
    ],
)
def test_an_impossible_comparison_is_one_clear_line(
    tmp_path: Path, arguments: list[str], says: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_sides(tmp_path, 2)
    for name in ("ab", "empty", "cut/1", "old", "foreign", "half"):
        (tmp_path / name).mkdir(parents=True)
    Path("ab/ab.json").write_text('{"pairs": ')
    Path("cut/1/run.json").write_text('{"kind": "gserver load')
    Path("old/run.json").write_text('{"kind": "gserver load test run", "schema_version": 0}')
    Path("foreign/run.json").write_text('{"kind": "somebody else\'s"}')
    save_run(Path("half"), run_of({}))
    Path("half/client.json").write_text("{}")

    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"loadtests: {says}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("band", ["0", "100%", "much", "-3%", "nan"])
def test_an_impossible_band_is_wrong_usage(band: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "a", "b", f"--band={band}"])

    assert ended.value.code == 2
    assert f"{band!r}, must be a percentage above 0 and below 100" in capsys.readouterr().err


def test_markdown_is_printed(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 6, 0.1)

    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--markdown"])
    assert capsys.readouterr().out.startswith("**Worse: B is worse in throughput")


def test_page_and_pictures_are_written_to_the_given_paths(tmp_path: Path, capsys: Printed) -> None:
    save_sides(tmp_path, 6)
    page, pictures = tmp_path / "page.html", tmp_path / "pictures"
    sides = [str(tmp_path / side) for side in "ab"]

    assert main(["compare", *sides, "--html", str(page), "--pictures", str(pictures), "--format", "png"]) == 0

    assert page.read_text().startswith("<!doctype html>")
    assert {path.name for path in pictures.iterdir()} >= {"verdicts.png", "runs.png"}
    assert (pictures / "verdicts.png").read_bytes().startswith(b"\x89PNG")
