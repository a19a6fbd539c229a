"""Kills by the OOM killer, from files of control groups that the tests write; and one real kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.process import oom
from gserver.process.oom import OomWatch
from tests.helpers.processes import GserverProcess


def make_proc(folder: Path, cgroup: str, mountinfo: str) -> str:
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mountinfo)
    return str(proc)


MOUNT_2 = "30 1 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MOUNT_1 = "35 1 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
OTHER_1 = "36 1 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files"),
    [
        ("0::/a/b\n", MOUNT_2.format(root="/"), ["/sys/fs/cgroup/a/b/memory.events"]),
        ("0::/\n", MOUNT_2.format(root="/"), ["/sys/fs/cgroup/memory.events"]),
        ("0::/docker/1/a\n", MOUNT_2.format(root="/docker/1"), ["/sys/fs/cgroup/a/memory.events"]),
        ("4:memory:/a\n1:cpu,cpuacct:/b\n", MOUNT_1.format(root="/"), ["/sys/fs/cgroup/memory/a/memory.oom_control"]),
        (
            "4:memory:/docker/1\n",
            MOUNT_1.format(root="/docker/1") + OTHER_1,
            ["/sys/fs/cgroup/memory/memory.oom_control"],
        ),
        (
            "4:memory:/a\n0::/\n",
            MOUNT_1.format(root="/") + MOUNT_2.format(root="/"),
            ["/sys/fs/cgroup/memory/a/memory.oom_control", "/sys/fs/cgroup/memory.events"],
        ),
        ("1:cpu:/a\n", OTHER_1, []),
        ("", "", []),
    ],
    ids=["v2", "v2 root", "v2 container", "v1", "v1 container", "both", "without memory", "nothing"],
)
def test_the_file_of_the_own_group_is_found(tmp_path: Path, cgroup: str, mountinfo: str, files: list[str]) -> None:
    assert oom._group_files(make_proc(tmp_path, cgroup, mountinfo)) == files


def test_without_proc_there_is_no_file(tmp_path: Path) -> None:
    assert oom._group_files(str(tmp_path)) == []


@pytest.mark.parametrize("text", ["low 0\noom_kill {}\n", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"])
def test_kills_are_counted_from_the_beginning(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "memory.events"
    file.write_text(text.format(3))
    monkeypatch.setattr(oom, "_group_files", lambda: [str(tmp_path / "nowhere"), str(file)])
    watch = OomWatch.begin()
    assert watch.kills() == 0
    assert watch.explain() == (
        "sent by another process; the kernel's OOM killer has killed no process in its control group since it started"
    )
    file.write_text(text.format(5))

    assert watch.kills() == 2
    assert watch.explain() == (
        "the kernel's OOM killer has killed 2 processes in its control group since it started: memory ran out"
    )
    file.unlink()

    assert watch.kills() is None
    assert watch.explain() == "sent by another process, or by the kernel's OOM killer"


def test_without_a_readable_group_the_counter_of_the_machine_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 5\noom_kill 0\n")
    monkeypatch.setattr(oom, "_group_files", list)
    monkeypatch.setattr(oom, "_MACHINE", str(file))
    watch = OomWatch.begin()
    file.write_text("nr_free_pages 5\noom_kill 1\n")

    assert (
        watch.explain()
        == "the kernel's OOM killer has killed 1 process on this machine since it started: memory ran out"
    )


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill x\n", "low 0\n"])
def test_without_a_counter_the_number_of_kills_is_unknown(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memory.events"
    file.write_text(text)
    monkeypatch.setattr(oom, "_group_files", lambda: [str(file)])
    monkeypatch.setattr(oom, "_MACHINE", str(file))

    assert OomWatch.begin().kills() is None


LIMIT_BYTES = 300 * 1024 * 1024
GREEDY_APP = """
from gserver import Lines, Service

held = []
def answer(line, conn):
    while True:
        held.append(bytearray(b"x") * (1 << 20))

app = Service(answer, Lines)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory. Needs root, and a kernel that controls memory."""
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        made = Path(parent) / f"gserver-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / limit).write_text(str(LIMIT_BYTES))
            (made / "cgroup.procs").read_text()
        except OSError:
            made.rmdir()
            continue
        yield made
        made.rmdir()
        return
    pytest.skip("no control group can be made here: not root, or memory is not controlled")


def test_a_worker_killed_by_the_kernel_is_reported_as_such(tmp_path: Path, group: Path) -> None:
    (tmp_path / "app.py").write_text(GREEDY_APP)
    with GserverProcess(tmp_path, "app:app") as server:
        (group / "cgroup.procs").write_text(str(server.process.pid))
        server.signal(1)  # the next generation of workers is forked in the group
        server.wait_for_log("Reloaded")
        with server.connect() as client:
            client.sendall(b"?\n")
            server.wait_for_log("the kernel's OOM killer has killed 1 process in its control group")
        server.wait_for_log("Worker ready", 3)
