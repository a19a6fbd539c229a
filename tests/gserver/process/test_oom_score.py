"""oom_score_adj of a worker: in files that the tests write, and in real processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gserver.process.oom_score import raise_above
from tests.helpers.processes import GserverProcess


def make_proc(folder: Path, value: str) -> str:
    for name in ("self", "7"):
        (folder / name).mkdir()
        (folder / name / "oom_score_adj").write_text(value)
    return str(folder)


@pytest.mark.parametrize(("value", "by", "raised"), [("0", 300, "300"), ("-500", 100, "-400"), ("950", 100, "1000")])
def test_it_is_raised_by_so_much_and_never_above_the_kernels_limit(
    tmp_path: Path, value: str, by: int, raised: str
) -> None:
    assert raise_above(7, by, make_proc(tmp_path, value + "\n")) is None
    assert (tmp_path / "self" / "oom_score_adj").read_text() == raised


def test_a_failure_is_one_line(tmp_path: Path) -> None:
    failure = raise_above(7, 300, str(tmp_path))

    assert failure is not None
    assert failure.startswith("oom_score_adj cannot be raised by 300: [Errno 2]")
    assert "\n" not in failure


def value_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize("flags", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_every_worker_is_killed_before_the_arbiter_and_a_reload_changes_it(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    config = tmp_path / "conf.py"
    config.write_text("worker_oom_score_adj = 200\n")
    with GserverProcess(tmp_path, "echo", "-c", str(config), *flags, workers=2) as server:
        own = value_of(server.process.pid)
        old = server.serving_pids()
        assert [value_of(pid) - own for pid in old] == [200, 200]

        config.write_text("worker_oom_score_adj = 100\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("Reloaded")
        new = set(server.serving_pids()) - set(old)
        assert [value_of(pid) - own for pid in new] == [100, 100]
        assert value_of(server.process.pid) == own


def test_by_default_it_is_not_changed(tmp_path: Path) -> None:
    with GserverProcess(tmp_path, "echo") as server:
        assert [value_of(pid) for pid in server.serving_pids()] == [value_of(server.process.pid)]
