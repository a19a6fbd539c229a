from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from loadtests.cli import main
from loadtests.comparison.run_identity import commit_of
from loadtests.comparison.trends import changes_of, render_csv, render_otava, render_trend, trends_of
from loadtests.results.store import Run, save_run
from loadtests.results.validity import Verdict
from loadtests.servers.target import RAN_ALREADY
from tests.helpers.loadtests_runs import make_run


def run_at(place: int, scale: float = 1.0, server: str = "gserver:json", **changes: object) -> Run:
    """The run of a day, with a little noise."""
    made = make_run(scale=scale * (1 + 0.002 * (place * 7 % 11)), **changes)
    return dataclasses.replace(
        made,
        started_at=f"2026-01-{place + 1:02}T00:00:00+00:00",
        server={"command": f"{server}@{place:012x}"},
        path=Path(f"run-{place}"),
    )


SLOWER_FROM_12_ON = [run_at(place, 1.0 if place < 12 else 1.2) for place in range(24)]


def test_runs_of_the_same_workload_host_and_server_are_a_trend_whatever_the_commit() -> None:
    others = [
        run_at(1, server="gserver:echo"),
        run_at(2, workload_hash="ba9876543210"),
        run_at(3, environment={"cores": 64}),
    ]
    trends, invalid = trends_of([*reversed(SLOWER_FROM_12_ON), *others])

    assert [len(trend.runs) for trend in trends] == [24, 1, 1, 1]
    assert trends[0].runs == tuple(SLOWER_FROM_12_ON)
    assert invalid == []
    assert len({trend.key for trend in trends}) >= 3


def served(address: str, command: str = RAN_ALREADY, **server: object) -> dict[str, object]:
    return {"address": address, "command": command, **server}


@pytest.mark.parametrize(
    ("changes", "trends"),
    [
        ([{"server": served("tcp://10.1.2.3:3001")}, {"server": served("tcp://10.1.2.3:3001")}], 1),
        ([{"server": served("tcp://10.1.2.3:3001")}, {"server": served("tcp://10.7.7.7:3001")}], 2),
        ([{"server": served("tcp://10.1.2.3:3001")}, {"server": served("tls://10.1.2.3:3001")}], 2),
        (
            [
                {"server": served("tcp://127.0.0.1:1", "node x.js")},
                {"server": served("tcp://127.0.0.1:2", "node x.js")},
            ],
            1,
        ),
        ([{"server": served("tcp://127.0.0.1:1", "node x.js")}, {"server": served("tcp://127.0.0.1:1")}], 2),
        ([{"server": served("", "gserver:a", workers=1)}, {"server": served("", "gserver:a", workers=2)}], 2),
        ([{"server": served("", f"gserver:a@{one * 12}?workers=2")} for one in "ab"], 1),
        ([{"server": served("", f"cmd:serve x@{one * 12} {{port}}")} for one in "ab"], 2),
        ([{"environment": {"pinning": "not pinned"}}, {"environment": {"pinning": "server on 0, generator on 1"}}], 2),
        ([{"environment": {"generator": "1 process"}}, {"environment": {"generator": "2 processes and a master"}}], 2),
        ([{"schema": 2}, {"schema": 3}], 2),
    ],
)
def test_runs_of_another_server_or_setting_are_another_trend(changes: list[dict[str, object]], trends: int) -> None:
    found, _ = trends_of([make_run(**each) for each in changes])

    assert len(found) == trends
    assert len({trend.key for trend in found}) == trends
    assert len({trend.title for trend in found}) == trends


def test_a_server_that_ran_already_is_named_by_its_address() -> None:
    ((trend,), _) = trends_of([make_run(server=served("tls://10.1.2.3:3001"))])

    assert "on the server at tls://10.1.2.3:3001;" in trend.title
    assert trend.key.startswith("json-0123456789ab-the-server-at-tls-10-1-2-3-3001-")


def test_a_run_that_is_not_valid_is_in_no_trend() -> None:
    noisy = run_at(1, verdict=Verdict("noisy-host", ["others used 40% of the host"]))

    assert trends_of([noisy]) == ([], [noisy])


def test_a_percentile_of_few_replies_is_in_no_trend() -> None:
    few = [
        dataclasses.replace(
            run, figures=[dataclasses.replace(each, count=3) if "_p" in each.name else each for each in run.figures]
        )
        for run in SLOWER_FROM_12_ON
    ]
    ((trend,), _) = trends_of(few)

    assert "throughput" in trend.figures
    assert not [name for name in trend.figures if name.startswith(("response", "service"))]
    assert "latency" not in render_trend(trend)
    assert "response" not in render_csv(trend)


def test_a_change_is_marked_at_its_run_and_listed_with_size_and_commit() -> None:
    ((trend,), _) = trends_of(SLOWER_FROM_12_ON)
    text = render_trend(trend)

    assert [point.at for point in changes_of(trend)["server_cpu_per_exchange"]] == [12]
    (row,) = [line for line in text.splitlines() if line.startswith("2026-01-13")]
    assert "* 103 µs" in row
    assert [line for line in text.splitlines() if line.startswith("2026-") and "* " in line] == [row]
    assert max(map(len, text.partition("\n")[2].splitlines())) <= 100
    assert "* CPU time per exchange: 85.8 µs to 103 µs (+20.2%) from 00000000000c on, p = 0.0005" in text


def test_no_change_and_too_few_runs_are_reported() -> None:
    ((steady,), _) = trends_of(SLOWER_FROM_12_ON[:12])
    ((short,), _) = trends_of(SLOWER_FROM_12_ON[:5])

    assert render_trend(steady).endswith("\n\nNo change.")
    assert render_trend(short).endswith("\n\nToo few runs to detect a change in 9 figures: it takes 12.")


def test_the_commit_is_that_of_the_side_or_else_of_the_checkout() -> None:
    assert commit_of(run_at(10)) == "00000000000a"
    assert commit_of(make_run(environment={"source": "abc+changes"})) == "abc+changes"


def test_the_csv_has_a_time_attributes_and_a_column_for_each_figure_of_all_runs() -> None:
    ((trend,), _) = trends_of(SLOWER_FROM_12_ON)
    rows = list(csv.DictReader(io.StringIO(render_csv(trend))))

    assert len(rows) == 24
    assert list(rows[0])[:3] == ["time", "commit", "run"]
    assert (rows[12]["time"], rows[12]["commit"]) == ("2026-01-13T00:00:00+00:00", "00000000000c")
    assert [float(row["throughput"]) for row in rows] == pytest.approx(trend.values("throughput"), rel=1e-5)
    assert all(float(value) >= 0 for row in rows for name, value in row.items() if name in trend.figures)


def test_otavas_configuration_names_the_file_the_columns_and_which_way_is_better() -> None:
    ((trend,), _) = trends_of(SLOWER_FROM_12_ON)
    text = render_otava([(trend, "trend.csv")])

    assert text.startswith(f"tests:\n  {trend.key}:\n    type: csv\n    file: 'trend.csv'\n    time_column: time\n")
    assert "    attributes: [commit, run]\n" in text
    assert "      throughput:\n        column: throughput\n        direction: 1\n" in text
    assert "      response_p99:\n        column: response_p99\n        direction: -1\n" in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in SLOWER_FROM_12_ON:
        (tmp_path / "deep" / run.path).mkdir(parents=True)
        save_run(tmp_path / "deep" / run.path, run)
    return tmp_path


def test_the_command_finds_runs_in_any_folder_and_names_those_it_cannot_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    status = main(["history", str(folder), "--csv", str(folder / "out.csv")])
    out, err = capsys.readouterr()

    assert status == 0
    assert "24 runs" in out
    assert f"{folder / 'broken' / 'run.json'} cannot be read" in err
    assert (folder / "out.csv").read_text().count("\n") == 25
    assert str(folder / "out.csv") in (folder / "out.otava.yaml").read_text()


def test_several_trends_are_several_files(folder: Path) -> None:
    (folder / "other").mkdir()
    save_run(folder / "other", run_at(3, server="gserver:echo"))
    main(["history", str(folder), "--csv", str(folder / "out.csv")])

    assert len(list(folder.glob("out-*.csv"))) == 2


def test_a_folder_without_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"loadtests: {tmp_path}: there is no run in it that can be read\n"
