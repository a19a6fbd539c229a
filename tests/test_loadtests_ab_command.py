from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtests import ab_command
from loadtests.cli import main
from loadtests.compare_command import load_pairs
from loadtests.profiles import Profile
from loadtests.results import Run, load_run, save_run
from loadtests.runner import Target
from loadtests.verdict import Verdict
from tests.helpers.loadtests_runs import make_run


@dataclasses.dataclass
class Swarms:
    """Runs that cost no time: those of the side "node" take `slower` times as long; each is asked for its verdict."""

    slower: float = 1.0
    labels: list[str] = dataclasses.field(default_factory=list)
    ports: list[str] = dataclasses.field(default_factory=list)
    verdict: Callable[[int], Verdict] = lambda number: Verdict("valid")
    interrupt_at: int | None = None

    def execute(self, profile: Profile, target: Target, results: Path, label: str) -> tuple[Run, bool]:
        number = len(self.labels)
        if number == self.interrupt_at:
            raise KeyboardInterrupt
        self.labels.append(label)
        self.ports.append(target.url)
        folder = results / f"run-{number}"
        folder.mkdir()
        scale = (self.slower if "node" in target.title else 1.0) * (1 + 0.001 * (number * 7 % 11))
        run = make_run(scale=scale, label=label, verdict=self.verdict(number), server={"command": target.title})
        save_run(folder, run)
        return load_run(folder), False


@pytest.fixture
def swarms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Swarms:
    made = Swarms()
    monkeypatch.setattr(ab_command, "execute", made.execute)
    monkeypatch.setattr("loadtests.sides.Toolchain.command_of", lambda self, program: [program])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def ab(folder: Path, *words: str) -> int:
    return main(["ab", *words, "--results", str(folder / "results")])


def kept(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results").glob("*-ab-*/ab.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


SIDES = ("gserver:json", "peer:node-json")


def test_both_sides_run_in_pairs_in_the_order_of_the_seed_each_on_a_fresh_server(
    swarms: Swarms, tmp_path: Path
) -> None:
    ab(tmp_path, *SIDES, "--pairs", "4", "--seed", "5")
    made = kept(tmp_path)

    assert "".join(label[0].lower() for label in swarms.labels) == "".join(made["order"])
    assert {label[2:] for label in swarms.labels} == set(SIDES)
    assert len(set(swarms.ports)) > 4
    assert (made["a"], made["b"], made["seed"], made["ended"]) == (*SIDES, 5, "all pairs")
    for a, b in made["pairs"]:
        folder = next((tmp_path / "results").iterdir())
        assert (load_run(folder / a).label[0], load_run(folder / b).label[0]) == ("A", "B")


def test_the_folder_can_be_given_a_name_that_nothing_has_yet(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ab(tmp_path, *SIDES, "--pairs", "1", "--name", "mine") == 3
    assert load_pairs(tmp_path / "results" / "mine").pairs
    capsys.readouterr()
    assert ab(tmp_path, *SIDES, "--pairs", "1", "--name", "mine") == 2
    assert "File exists" in capsys.readouterr().err


def test_the_seed_is_recorded_also_where_none_was_given(swarms: Swarms, tmp_path: Path) -> None:
    ab(tmp_path, *SIDES, "--pairs", "1")

    assert isinstance(kept(tmp_path)["seed"], int)


@pytest.mark.parametrize(("slower", "status", "says"), [(1.5, 1, "Worse"), (0.5, 0, "Better"), (1.0, 0, "Equivalent")])
def test_the_pairs_end_as_soon_as_all_is_settled_and_the_status_tells_how(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], slower: float, status: int, says: str
) -> None:
    swarms.slower = slower

    assert ab(tmp_path, *SIDES, "--pairs", "40") == status
    assert capsys.readouterr().out.startswith(says)
    assert kept(tmp_path)["ended"] == "settled"
    assert len(kept(tmp_path)["pairs"]) == 20


@pytest.mark.parametrize(("pairs", "looks"), [(8, 1), (9, 2), (10, 3)])
def test_pairs_are_looked_at_as_often_as_leaves_the_last_look_able_to_tell(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: int, looks: int
) -> None:
    swarms.slower = 1.5
    status = ab(tmp_path, *SIDES, "--pairs", str(pairs))
    told = f"--pairs {pairs} is too few to call anything different, however far apart: it takes 9"

    assert kept(tmp_path)["looks"] == looks
    assert (status, told in capsys.readouterr().err) == ((3, True) if pairs < 9 else (1, False))


def test_the_folder_is_one_that_compare_reads(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ab(tmp_path, *SIDES, "--pairs", "20", "--band", "4%")
    first = capsys.readouterr().out
    (folder,) = (tmp_path / "results").iterdir()
    main(["compare", str(folder), "--band", "4%"])

    assert load_pairs(folder).looks == 3
    assert capsys.readouterr().out == first


def test_a_run_that_is_not_valid_is_made_once_more_and_that_is_said(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = Verdict("noisy-host", ["others used 1.2 cores"])
    swarms.verdict = lambda number: noisy if number in (1, 2) else Verdict("valid")
    ab(tmp_path, *SIDES, "--pairs", "2", "--seed", "5")
    made = kept(tmp_path)

    assert [(each["run"], each["reasons"]) for each in made["repeated"]] == [
        ("run-1", noisy.reasons),
        ("run-2", noisy.reasons),
    ]
    assert not {"run-1", "run-2"} & {run for pair in made["pairs"] for run in pair}
    assert "noisy-host: others used 1.2 cores" in capsys.readouterr().err


def test_a_side_that_is_never_valid_is_given_up_and_what_was_made_is_compared(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swarms.verdict = lambda number: Verdict("generator-bound", ["it was busy"]) if number > 4 else Verdict("valid")

    assert ab(tmp_path, *SIDES, "--pairs", "9") == 3
    out, err = capsys.readouterr()
    assert len(swarms.labels) == 4 + 1 + 10
    assert "none of 10 runs of" in err
    assert "2 pairs" in out
    assert kept(tmp_path)["ended"] == "invalid"


def test_runs_that_are_not_valid_are_taken_only_if_that_is_forced(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swarms.verdict = lambda number: Verdict("noisy-host", ["others used 95% of the cores"])
    ab(tmp_path, *SIDES, "--pairs", "2", "--force")

    assert len(kept(tmp_path)["pairs"]) == 2
    assert kept(tmp_path)["repeated"] == []
    out, err = capsys.readouterr()
    assert "noisy-host: others used 95% of the cores" in err
    assert out.startswith("Inconclusive")


def test_ctrl_c_compares_the_whole_pairs(swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarms.interrupt_at = 7
    ab(tmp_path, *SIDES, "--pairs", "9")

    assert len(kept(tmp_path)["pairs"]) == 3
    assert kept(tmp_path)["ended"] == "interrupted"
    assert "A: gserver:json, 3 pairs" in capsys.readouterr().out


def test_ctrl_c_before_there_is_a_pair_is_status_130(swarms: Swarms, tmp_path: Path) -> None:
    swarms.interrupt_at = 1

    assert ab(tmp_path, *SIDES) == 130
    assert kept(tmp_path)["pairs"] == []


def test_a_server_against_itself_leaves_the_noise_by_which_two_single_runs_are_compared(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ab(tmp_path, "gserver:json", "--aa", "--pairs", "20")
    (folder,) = (tmp_path / "results").iterdir()
    made = kept(tmp_path)
    capsys.readouterr()

    assert len(made["pairs"]) == 20
    assert (made["looks"], made["ended"]) == (1, "all pairs")
    assert (folder / "noise.json").exists()
    main(["compare", str(folder / made["pairs"][0][0]), str(folder / made["pairs"][0][1])])
    assert "the noise floor of 20 pairs" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("gserver:json",), "give two servers, or one and --aa"),
        ((*SIDES, "--aa"), "give two servers, or one and --aa"),
        (("node", "gserver:json"), "the server is 'node', expected gserver:APP"),
        (("gserver:json", "peer:perl-json"), "there is no peer 'perl-json': expected one of"),
    ],
)
def test_wrong_sides_are_one_line_and_leave_nothing(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert ab(tmp_path, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"loadtests: {says}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_toolchain_that_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert ab(tmp_path, "gserver:json", "peer:node-json") == 2
    assert capsys.readouterr().err == "loadtests: node is not installed\n"


@pytest.mark.longhaul
def test_two_real_servers_are_run_in_turns_to_the_end(tmp_path: Path) -> None:
    small = ["--pairs", "1", "--users", "5", "--duration", "2", "--json", "--force"]
    # However busy this host is: that is not what is tested.
    command = [sys.executable, "-m", "loadtests", "ab", "gserver:json", "peer:asyncio-json", *small]
    ended = subprocess.run(
        [*command, "--results", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    (folder,) = tmp_path.iterdir()
    ((a, b),) = load_pairs(folder).pairs

    assert ended.returncode in (1, 3), ended.stderr  # worse is more than one pair can tell
    assert load_run(folder / a).server["command"] == "gserver:json"
    assert load_run(folder / b).server["command"] == "peer:asyncio-json"
    assert json.loads(ended.stdout)["paired"] is True
