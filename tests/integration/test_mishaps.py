"""Runs that are disturbed: each can be read afterwards, and its report names the disturbance."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from loadtests.results.store import Run, load_run
from tests.helpers.processes import wait_for

pytestmark = [pytest.mark.long, pytest.mark.alone]

PATIENCE_S = 120.0
HOG = "import os; os.sched_setaffinity(0, {%d})\nwhile True: pass"


@dataclass
class Mishap:
    """A running `loadtests run`, and its status and output after its end."""

    results: Path
    process: subprocess.Popen[str]
    status: int | None = None
    said: str = ""

    def locate(self, words: str) -> psutil.Process:
        """Return the newest process of this run with these words in its command line."""

        found: list[psutil.Process] = []

        def is_found() -> bool:
            assert self.process.poll() is None, "the run has ended"
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it has ended in between
                    if words in " ".join(child.cmdline()):
                        found.append(child)
            return bool(found)

        wait_for(is_found, f"a process with {words!r}")
        return max(found, key=lambda each: (each.create_time(), each.pid))

    def measures(self) -> bool:
        """Whether the swarm is in its measured phase."""
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            command = self.locate("locust").cmdline()
            if "--phases" in command:
                return '"phase": "measure"' in Path(command[command.index("--phases") + 1]).read_text()
        return False

    def end(self) -> Run:
        if self.status is None:
            out, err = self.process.communicate(timeout=PATIENCE_S)
            self.status, self.said = self.process.returncode, out + err
        assert "Traceback" not in self.said
        (folder,) = self.results.iterdir()
        return load_run(folder)


def begin(results: Path, *arguments: str, cores: set[int] | None = None, work: Path | None = None) -> Mishap:
    """Start a run. cores: run on these only. work: folder for temporary files."""
    command = [sys.executable, "-m", "loadtests", "run", *arguments, "--results", str(results)]
    pin = None if cores is None else lambda: os.sched_setaffinity(0, cores)
    environment = {**os.environ, **({"TMPDIR": str(work)} if work else {})}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=pin, env=environment
    )
    return Mishap(results, process)


@contextmanager
def hogs(count: int, core: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", HOG % core]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write to a file until the disk is full."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


@pytest.mark.longhaul
def test_a_slow_generator_and_other_load_on_the_host_are_both_reported(tmp_path: Path) -> None:
    """Server, swarm and three busy processes share one core, so that the run gets a quarter of it."""
    core = min(os.sched_getaffinity(0))
    with hogs(3, core):
        run = begin(tmp_path, "smoke", "--duration", "3", "--rate", "100", cores={core}).end()

    assert run.verdict.state in ("generator-bound", "incomplete")
    assert any("late by more than a millisecond" in reason for reason in run.verdict.reasons), run.verdict
    assert any("Other processes used" in reason for reason in run.verdict.reasons), run.verdict
    assert run.environment["pinning"] == "not pinned"


def test_a_sampler_or_worker_that_dies_is_reported(tmp_path: Path) -> None:
    """Kill the sampler in one run and a Locust worker in another; both runs continue to their end."""
    blind = begin(tmp_path / "sampler", "smoke", "--duration", "4")
    # Longer, because its worker is killed only after the other run's sampler.
    maimed = begin(tmp_path / "worker", "smoke", "--duration", "12", "--processes", "2")
    for mishap, words in ((blind, "loadtests sample"), (maimed, "locust")):
        wait_for(mishap.measures, "the measure phase")
        kill(mishap.locate(words))
    unsampled, halved = blind.end(), maimed.end()

    assert blind.status == 3
    assert unsampled.verdict.state == "incomplete"
    assert "The sampler ended in the middle of the run" in unsampled.verdict.reasons[0]
    assert unsampled.figure("throughput")
    assert maimed.status == 3
    assert halved.verdict.state == "incomplete"
    # The time is that of its last message, which may be before the phase in which it was killed.
    lost = r"Worker process \d+ on host .* was lost (\d+ s into|before) the measured phase"
    assert re.search(lost, halved.verdict.reasons[0])


def test_a_full_disk_loses_files_but_not_the_run(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, ExitStack() as stack:
        mishap = begin(disk / "runs", "smoke", "--duration", "4")
        stack.callback(mishap.process.communicate)
        wait_for(mishap.measures, "the measure phase")
        fill(disk)
        run = mishap.end()

        assert mishap.status == 3
        assert run.verdict.state == "incomplete"
        assert "client.json could not be kept: No space left on device." in run.verdict.reasons
        assert run.figure("server_cpu"), "samples were in a temporary folder on another disk"
        assert run.figure("exchanges_ok")
        assert not [path for path in run.path.iterdir() if path.suffix == ".unfinished"]


def test_a_run_that_cannot_be_saved_still_prints_its_figures(tmp_path: Path) -> None:
    """The folder of the run is removed during the run."""
    mishap = begin(tmp_path / "runs", "smoke", "--duration", "2")
    wait_for(mishap.measures, "the measure phase")
    shutil.rmtree(tmp_path / "runs")
    out, err = mishap.process.communicate(timeout=PATIENCE_S)

    assert mishap.process.returncode == 2
    assert "exchanges a second" in out
    assert "report.md" not in out
    assert re.search(r"not written: \S+/run\.json: No such file or directory", err)
    assert "Traceback" not in err


def test_a_full_disk_for_temporary_files_loses_no_exchange(tmp_path: Path) -> None:
    with small_disk(tmp_path / "work") as work, ExitStack() as stack:
        mishap = begin(tmp_path / "runs", "smoke", "--duration", "4", work=work)
        stack.callback(mishap.process.communicate)
        wait_for(mishap.measures, "the measure phase")
        fill(work)
        run = mishap.end()

    assert run.figure("exchanges_ok")
    assert (run.path / "client.json").exists()
    assert run.verdict.state == "incomplete"
