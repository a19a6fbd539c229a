"""The number of usable processors: by affinity and by quotas, from control groups that the tests write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.config.processors import processors_within, usable_processors

MANY = 64


@pytest.fixture
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MANY)))


def make_proc(folder: Path, cgroup: str, version: int) -> str:
    """Write a /proc in which `folder` is the mount point of the CPU controller."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,cpu,cpuacct")
    (proc / "mountinfo").write_text(f"30 1 0:26 / {folder} rw - {kind} {kind} {options}\n")
    return str(proc)


@pytest.mark.parametrize(
    ("affinity", "quotas", "usable"),
    [(4, [], 4), (4, [1.5], 2), (4, [2.0], 2), (2, [3.5], 2), (8, [6.0, 2.5, 4.0], 3), (4, [0.25], 1), (1, [], 1)],
)
def test_the_smallest_counts_rounded_up(affinity: int, quotas: list[float], usable: int) -> None:
    assert processors_within(affinity, quotas) == usable


@given(st.integers(1, 1000), st.lists(st.floats(0.001, 1000)))
def test_it_is_at_least_one_and_at_most_the_affinity(affinity: int, quotas: list[float]) -> None:
    assert 1 <= processors_within(affinity, quotas) <= affinity


@pytest.mark.parametrize(
    ("text", "usable"),
    [("150000 100000", 2), ("max 100000", MANY), ("0 100000", MANY), ("x y", MANY), ("", MANY), ("5", MANY)],
)
@pytest.mark.usefixtures("many_processors")
def test_version_2_has_quota_and_period_in_one_file(tmp_path: Path, text: str, usable: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cpu.max").write_text(text + "\n")

    assert usable_processors(make_proc(tmp_path, "0::/a\n", 2)) == usable


@pytest.mark.parametrize(("quota", "usable"), [("300000", 3), ("50000", 1), ("-1", MANY)])
@pytest.mark.usefixtures("many_processors")
def test_version_1_has_them_in_two(tmp_path: Path, quota: str, usable: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "a" / "cpu.cfs_period_us").write_text("100000\n")

    assert usable_processors(make_proc(tmp_path, "2:cpu,cpuacct:/a\n", 1)) == usable


@pytest.mark.usefixtures("many_processors")
def test_the_quota_of_a_parent_holds_for_its_children(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")

    assert usable_processors(make_proc(tmp_path, "0::/a/b\n", 2)) == 2


@pytest.mark.usefixtures("many_processors")
def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_processors(str(tmp_path)) == MANY


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= usable_processors() <= (os.cpu_count() or 1)


PRINT = "from gserver.config.processors import usable_processors; print(usable_processors())"


@pytest.fixture
def quota_group() -> Iterator[Path]:
    """A control group with a quota of one processor. Needs root, and a kernel that controls the CPU."""
    for parent, name, value in (
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "100000"),
        ("/sys/fs/cgroup", "cpu.max", "100000 100000"),
    ):
        made = Path(parent) / f"gserver-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / name).write_text(value)
            (made / "cgroup.procs").read_text()
        except OSError:
            made.rmdir()
            continue
        yield made
        made.rmdir()
        return
    pytest.skip("no control group can be made here: not root, or the CPU is not controlled")


def test_a_real_quota_is_found(quota_group: Path) -> None:
    enter = f"import os; open({str(quota_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
    printed = subprocess.run([sys.executable, "-c", enter + PRINT], capture_output=True, text=True, check=True)

    assert printed.stdout == "1\n"


def test_a_real_affinity_is_found() -> None:
    (first, *_) = sorted(os.sched_getaffinity(0))
    pin = f"import os; os.sched_setaffinity(0, [{first}]); "
    printed = subprocess.run([sys.executable, "-c", pin + PRINT], capture_output=True, text=True, check=True)

    assert printed.stdout == "1\n"
