from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtests.cli import main
from loadtests.comparison.ab_plan import draw, load_record
from loadtests.host.subprocesses import NotAnswering
from loadtests.orchestration import ab_runner, quiet_host
from loadtests.orchestration.runner import Options, Target
from loadtests.results.store import ResultError, Run, load_run, save_run
from loadtests.results.validity import Verdict
from loadtests.servers.readiness import Probe
from loadtests.workloads.profiles import Profile
from tests.helpers.loadtests_runs import make_run


@dataclasses.dataclass
class Swarms:
    """Invented runs that take no time. Those of a peer "node" are `slower` times as slow.

    Attributes:
        verdict: of a run, by its number.
        fails: errors, by the number of a run or by the title of a server that is tried out.
        busy: whether the host is busy, by the number of the measurement.
    """

    slower: float = 1.0
    labels: list[str] = dataclasses.field(default_factory=list)
    ports: list[str] = dataclasses.field(default_factory=list)
    verdict: Callable[[int], Verdict] = lambda number: Verdict("valid")
    interrupt_at: int | None = None
    fails: dict[int | str, Exception] = dataclasses.field(default_factory=dict)
    tried: list[str] = dataclasses.field(default_factory=list)
    patience_s: set[float] = dataclasses.field(default_factory=set)
    busy: Callable[[int], bool] = lambda number: False
    looks: int = 0

    def try_out(self, target: Target, probe: Probe, log: Path, patience_s: float) -> None:
        assert not self.labels
        self.tried.append(target.title)
        self.patience_s.add(patience_s)
        if error := self.fails.get(target.title):
            raise error

    def watch(self) -> tuple[float, float]:
        self.looks += 1
        return (64.0, 0.0) if self.busy(self.looks) else (0.0, 0.0)

    def execute(
        self, profile: Profile, target: Target, results: Path, label: str, options: Options
    ) -> tuple[Run, bool]:
        number = len(self.labels)
        self.patience_s.add(options.start_timeout_s)
        if number == self.interrupt_at:
            raise KeyboardInterrupt
        if error := self.fails.get(number):
            raise error
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
    monkeypatch.setattr(ab_runner, "execute", made.execute)
    monkeypatch.setattr(ab_runner, "try_out", made.try_out)
    monkeypatch.setattr(quiet_host, "_watch", made.watch)
    monkeypatch.setattr(quiet_host, "PATIENCE_S", 0.0)
    monkeypatch.setattr("loadtests.servers.prepare.Toolchain.command_of", lambda self, program: [program])
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


def test_the_folder_can_have_a_name_if_it_is_new(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ab(tmp_path, *SIDES, "--pairs", "1", "--name", "mine") == 3
    assert load_record(tmp_path / "results" / "mine").pairs
    capsys.readouterr()
    assert ab(tmp_path, *SIDES, "--pairs", "1", "--name", "mine") == 2
    assert "File exists" in capsys.readouterr().err


def test_a_random_seed_is_recorded(swarms: Swarms, tmp_path: Path) -> None:
    ab(tmp_path, *SIDES, "--pairs", "1")

    assert isinstance(kept(tmp_path)["seed"], int)


@pytest.mark.parametrize(("slower", "status", "says"), [(1.5, 1, "Worse"), (0.5, 0, "Better"), (1.0, 0, "Equivalent")])
def test_the_pairs_end_once_all_figures_are_settled_and_the_status_is_the_verdict(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], slower: float, status: int, says: str
) -> None:
    swarms.slower = slower

    assert ab(tmp_path, *SIDES, "--pairs", "40") == status
    assert capsys.readouterr().out.startswith(says)
    assert kept(tmp_path)["ended"] == "settled"
    assert len(kept(tmp_path)["pairs"]) == 20


@pytest.mark.parametrize(("pairs", "looks"), [(8, 1), (9, 2), (10, 3)])
def test_the_number_of_looks_leaves_the_last_one_able_to_find_a_difference(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: int, looks: int
) -> None:
    swarms.slower = 1.5
    status = ab(tmp_path, *SIDES, "--pairs", str(pairs))
    told = f"--pairs {pairs} is too few to detect any difference, however large: at least 9 are needed"

    assert kept(tmp_path)["looks"] == looks
    assert (status, told in capsys.readouterr().err) == ((3, True) if pairs < 9 else (1, False))


def test_compare_reads_the_folder(swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ab(tmp_path, *SIDES, "--pairs", "20", "--band", "4%")
    first = capsys.readouterr().out
    (folder,) = (tmp_path / "results").iterdir()
    main(["compare", str(folder), "--band", "4%"])

    assert load_record(folder).looks == 3
    assert capsys.readouterr().out == first


def test_an_invalid_run_is_repeated_and_reported(
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


def test_after_several_invalid_runs_of_a_side_the_finished_pairs_are_compared(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swarms.verdict = lambda number: Verdict("generator-bound", ["it was busy"]) if number > 4 else Verdict("valid")

    assert ab(tmp_path, *SIDES, "--pairs", "9") == 3
    out, err = capsys.readouterr()
    assert len(swarms.labels) == 4 + 1 + 3
    assert "none of 3 runs of" in err
    assert "2 pairs" in out
    assert "Not all pairs were made: none of 3 runs of" in " ".join(out.split())
    assert kept(tmp_path)["ended"] == "invalid"


def test_a_host_of_which_half_of_the_runs_are_invalid_needs_more_attempts(swarms: Swarms, tmp_path: Path) -> None:
    noisy = Verdict("noisy-host", ["others used 1.2 cores"])
    swarms.verdict = lambda number: noisy if number in (1, 2, 3, 5) else Verdict("valid")
    ab(tmp_path, *SIDES, "--pairs", "2", "--attempts", "4")
    made = kept(tmp_path)

    assert len(made["pairs"]) == 2
    assert [each["run"] for each in made["repeated"]] == ["run-1", "run-2", "run-3", "run-5"]


def test_one_attempt_is_the_least(swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ab(tmp_path, *SIDES, "--attempts", "0")
    assert "--attempts" in capsys.readouterr().err


def test_force_takes_invalid_runs(swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarms.verdict = lambda number: Verdict("noisy-host", ["others used 95% of the cores"])
    ab(tmp_path, *SIDES, "--pairs", "2", "--force")

    assert len(kept(tmp_path)["pairs"]) == 2
    assert kept(tmp_path)["repeated"] == []
    out, err = capsys.readouterr()
    assert "noisy-host: others used 95% of the cores" in err
    assert out.startswith("Inconclusive")


def test_ctrl_c_compares_the_finished_pairs(swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarms.interrupt_at = 7
    ab(tmp_path, *SIDES, "--pairs", "9")

    assert len(kept(tmp_path)["pairs"]) == 3
    assert kept(tmp_path)["ended"] == "interrupted"
    assert "A: gserver:json, 3 pairs" in capsys.readouterr().out


def test_ctrl_c_before_the_first_pair_is_status_130(swarms: Swarms, tmp_path: Path) -> None:
    swarms.interrupt_at = 1

    assert ab(tmp_path, *SIDES) == 130
    assert kept(tmp_path)["pairs"] == []


def test_a_server_against_itself_leaves_a_noise_floor_for_single_runs(
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


def test_a_run_with_a_shortfall_of_the_server_is_taken_and_reported(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = "The server was away for 5 of 16 s."
    swarms.verdict = lambda number: Verdict("valid", [away], [away]) if number == 1 else Verdict("valid")
    ab(tmp_path, *SIDES, "--pairs", "2", "--seed", seed_of("ab"))
    out, err = capsys.readouterr()

    assert kept(tmp_path)["repeated"] == []
    assert f"  the server: {away}\n" in err
    said = f"peer:node-json did not do all that was requested in 1 of 2 runs: {away}"
    assert said in " ".join(out.split())


# Sides that fail


def seed_of(order: str) -> str:
    """A seed with which the pairs begin in this order."""
    return next(str(seed) for seed in range(100) if draw(seed, 1) == [order])


@pytest.mark.parametrize(("order", "second"), [("ab", SIDES[1]), ("ba", SIDES[0])])
def test_the_second_server_is_tried_out_before_the_first_run(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], order: str, second: str
) -> None:
    swarms.fails = {second: NotAnswering("it ended; its log has: no settings")}

    assert ab(tmp_path, *SIDES, "--seed", seed_of(order)) == 2
    assert (swarms.tried, swarms.labels) == ([second], [])
    letter = order[1].upper()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"loadtests: {letter} ({second}): it ended; its log has: no settings"
    (folder,) = (tmp_path / "results").iterdir()
    assert main(["compare", str(folder)]) == 2
    assert f"no pair was made: {letter} ({second}): it ended" in capsys.readouterr().err


def test_the_first_server_is_not_tried_out_separately(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swarms.fails = {0: NotAnswering("it ended")}

    assert ab(tmp_path, *SIDES, "--seed", seed_of("ba")) == 2
    assert capsys.readouterr().err.endswith("loadtests: B (peer:node-json): it ended\n")


@pytest.mark.parametrize("number", [1, 4, 5])
@pytest.mark.parametrize(
    "error", [NotAnswering("it ended"), ResultError("the swarm left nothing"), OSError(28, "No space left on device")]
)
def test_after_a_failure_the_finished_pairs_are_compared_if_there_are_any(
    swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, error: Exception
) -> None:
    swarms.fails = {number: error}

    assert ab(tmp_path, *SIDES, "--pairs", "9", "--seed", seed_of("ab")) == 3
    out, err = capsys.readouterr()
    made = kept(tmp_path)
    assert (made["ended"], len(made["pairs"])) == ("failed", number // 2)
    assert str(error) in made["why"]
    assert "Traceback" not in err
    if number == 1:
        assert "no pair was made: " in err
    else:
        assert "2 pairs" in out
        assert "Too few to call anything different" in out
        assert f"Not all pairs were made: {made['why']}." in " ".join(out.split())


@pytest.mark.parametrize(("slower", "status"), [(1.5, 1), (1.0, 3)])
def test_after_a_failure_the_status_is_1_only_if_the_finished_pairs_are_worse(
    swarms: Swarms, tmp_path: Path, slower: float, status: int
) -> None:
    swarms.slower, swarms.fails = slower, {36: NotAnswering("it ended")}

    assert ab(tmp_path, *SIDES, "--pairs", "40") == status
    assert (kept(tmp_path)["ended"], len(kept(tmp_path)["pairs"])) == ("failed", 18)


def test_the_start_timeout_is_an_option(swarms: Swarms, tmp_path: Path) -> None:
    ab(tmp_path, *SIDES, "--pairs", "1", "--start-timeout", "90.5")

    assert swarms.patience_s == {90.5}


def test_a_noise_floor_that_cannot_be_written_does_not_stop_the_comparison(
    swarms: Swarms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")

    assert ab(tmp_path, "gserver:json", "--aa", "--pairs", "1") == 3
    out, err = capsys.readouterr()
    assert "loadtests: not written: /dev/null/gserver-loadtests/noise: Not a directory" in err
    assert "1 pair" in out


# A host that is too busy


def test_no_run_is_made_on_a_busy_host(swarms: Swarms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swarms.busy = lambda number: True

    assert ab(tmp_path, *SIDES) == 3
    assert swarms.labels == []
    assert "no pair was made: the host was too busy for 0 s: other processes use" in capsys.readouterr().err
    assert kept(tmp_path)["ended"] == "busy"


def test_before_a_run_is_repeated_the_host_must_be_quiet(swarms: Swarms, tmp_path: Path) -> None:
    swarms.verdict = lambda number: (
        Verdict("noisy-host", ["others used 1.2 cores"]) if number == 3 else Verdict("valid")
    )
    swarms.busy = lambda number: number > 1

    assert ab(tmp_path, *SIDES) == 3
    assert len(swarms.labels) == 4
    assert (kept(tmp_path)["ended"], len(kept(tmp_path)["pairs"])) == ("busy", 1)


def test_force_does_not_wait_for_a_quiet_host(swarms: Swarms, tmp_path: Path) -> None:
    ab(tmp_path, *SIDES, "--pairs", "1", "--force")

    assert (swarms.looks, len(swarms.labels)) == (0, 2)


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


def test_a_missing_toolchain_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert ab(tmp_path, "gserver:json", "peer:node-json") == 2
    error = capsys.readouterr().err
    assert error == "loadtests: B (peer:node-json) cannot be started: node is not installed\n"


@pytest.mark.longhaul
def test_two_real_servers_are_compared(tmp_path: Path) -> None:
    small = ["--pairs", "1", "--users", "5", "--duration", "2", "--json", "--force"]
    # --force: the test must pass on a busy host.
    command = [sys.executable, "-m", "loadtests", "ab", "gserver:json", "peer:asyncio-json", *small]
    ended = subprocess.run(
        [*command, "--results", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    (folder,) = tmp_path.iterdir()
    ((a, b),) = load_record(folder).pairs

    assert ended.returncode in (1, 3), ended.stderr  # one pair is too few for a verdict
    assert load_run(folder / a).server["command"] == "gserver:json"
    assert load_run(folder / b).server["command"] == "peer:asyncio-json"
    assert json.loads(ended.stdout)["paired"] is True
