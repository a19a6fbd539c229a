"""How workers join a run of several hosts, are refused, and leave; all of it on 127.0.0.1.

There are two runs at the same time: in the first one all of this happens; the second one lacks a worker.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import gserver
from loadtests.host.subprocesses import free_port
from loadtests.orchestration.remote_worker import run_worker
from loadtests.results.store import Run, load_recording, load_run
from tests.helpers.loadtests_swarms import bound_socket
from tests.helpers.processes import wait_for

pytestmark = pytest.mark.long

PATIENCE_S = 90.0
# Long enough to start a worker meanwhile, which is refused.
SECONDS = 6
STRANGER = """
from locust import User, task

class Stranger(User):
    @task
    def idle(self):
        pass
"""
#: Valid users, which are not those of the run.
OTHER_USERS = """
from locust import task
from gserver import Lines
from loadtests.users import TcpUser

class Other(TcpUser):
    codec = Lines

    @task
    def ask(self):
        self.exchange("ask", b"question")
"""
#: A Locust worker with another version of gserver.
OF_ANOTHER_VERSION = """
import sys
import gserver
gserver.__version__ = "9.9.9"
from locust.main import main
main()
"""


@dataclass
class Stage:
    """Processes with a log each; all are ended at the end."""

    folder: Path
    stack: ExitStack
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log)
        self.stack.callback(end, process)
        self.processes[name] = process
        return process

    def run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        master = ("--master", "--bind", f"127.0.0.1:{self.port}", "--results", str(self.folder / "results"))
        return self.start(name, "-m", "loadtests", "run", "smoke", *master, *words)

    def worker(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        return self.start(name, "-m", "loadtests", "worker", "--master", f"127.0.0.1:{self.port}", *words)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def await_log(self, name: str, words: str) -> None:
        wait_for(lambda: words in self.log(name), f"{words!r} of {name}: {self.log(name)}", PATIENCE_S)

    def status(self, name: str) -> int:
        return self.processes[name].wait(PATIENCE_S)

    def lines(self, name: str) -> list[str]:
        """The lines of loadtests in a log."""
        return [line for line in self.log(name).splitlines() if line.startswith("loadtests: ")]


def end(process: subprocess.Popen[bytes]) -> None:
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for each in (process, *below):
        if isinstance(each, subprocess.Popen) or each.is_running():
            each.kill()
    process.wait()


@dataclass
class Story:
    """The results of both runs."""

    whole: Stage
    lacking: Stage
    run: Run
    lost: str
    took_s: float
    below: list[psutil.Process]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with ExitStack() as stack:
        lacking = Stage(tmp_path_factory.mktemp("lacking"), stack)
        whole = Stage(tmp_path_factory.mktemp("whole"), stack)
        lacking.worker("early")
        lacking.await_log("early", "waiting for the master")
        lacking.run("run", "--expect-workers", "2", "--expect-workers-max-wait", "12")
        lacking.await_log("run", "waiting for workers: 1 of 2")
        below = psutil.Process(lacking.processes["run"].pid).children(recursive=True)
        whole.run("run", "--duration", str(SECONDS), "--expect-workers", "2")
        whole.await_log("run", "waiting for workers: 0 of 2")
        start_workers_that_differ(whole)
        whole.worker("first")
        for name in ("file", "version", "without"):  # on a busy host they might start after the run
            whole.status(name)
        whole.worker("second")
        whole.await_log("run", "  ramp  ")
        began_s = time.monotonic()
        whole.worker("late")
        whole.await_log("run", "  measure  ")
        lost = of_locust(whole.processes["second"])
        whole.processes["second"].send_signal(signal.SIGINT)
        whole.status("late")
        whole.status("run")
        (folder,) = (whole.folder / "results").iterdir()
        yield Story(whole, lacking, load_run(folder), lost, time.monotonic() - began_s, below)


def start_workers_that_differ(stage: Stage) -> None:
    stranger, version = stage.folder / "stranger.py", stage.folder / "version.py"
    stranger.write_text(STRANGER)
    version.write_text(OF_ANOTHER_VERSION)
    to_master = ("--worker", "--master-port", str(stage.port))
    stage.start("without", "-m", "locust", "-f", str(stranger), *to_master)
    others = stage.folder / "others.py"
    others.write_text(OTHER_USERS)
    stage.worker("file", "--file", str(others))
    files = f"{Path(gserver.__file__).parents[1] / 'loadtests' / 'users' / 'profile_users.py'}"
    stage.start("version", str(version), "-f", files, *to_master)


def of_locust(worker: subprocess.Popen[bytes]) -> str:
    (process,) = psutil.Process(worker.pid).children()
    return f"worker process {process.pid} on host {socket.gethostname()}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("version", f"gserver 9.9.9 at the worker, {gserver.__version__} at the master"),
        ("file", "Locust file others.py ("),
        ("late", "the run has started, with 2 workers, and takes no others"),
    ],
)
def test_a_worker_that_may_not_join_is_refused_in_one_line_on_both_sides(story: Story, name: str, why: str) -> None:
    stage = story.whole
    (line,) = [line for line in stage.lines(name) if "waiting for the master" not in line]
    notices = [each for each in stage.lines("run") if "was refused" in each and why in each]

    assert line.startswith(f"loadtests: refused by the master at 127.0.0.1:{stage.port}: ")
    assert why in line
    assert len(notices) == 1
    assert stage.status(name) == 2
    assert "Traceback" not in stage.log(name)


def test_a_worker_without_loadtests_ends_with_both_versions_in_its_log(story: Story) -> None:
    stage = story.whole
    (line,) = [line for line in stage.log("without").splitlines() if "refused by the master" in line]

    assert "no loadtests, or another version, and locust" in line
    assert f"gserver {gserver.__version__}, loadtests" in line
    assert "Traceback" not in stage.log("without")
    assert len([each for each in stage.lines("run") if "no loadtests, or another version" in each]) == 1


def test_an_interrupted_worker_is_named_and_its_users_are_not_moved(story: Story) -> None:
    run, recording = story.run, load_recording(story.run.path / "client.json")
    start, finish = run.phases["measure"]
    sockets = recording.sockets()
    connects = recording.total(["connect"]).outcomes

    assert story.whole.status("second") == 130
    assert story.whole.lines("second")[-1] == "loadtests: interrupted"
    assert run.verdict.state == "incomplete"
    assert any(reason.lower().startswith(f"{story.lost} ended ".lower()) for reason in run.verdict.reasons), run.verdict
    assert f"loadtests: {story.lost} has ended" in story.whole.lines("run")
    assert (sockets[start - 1], sockets[finish - 1]) == (50, 25)
    assert connects["ok"] == 50
    assert recording.missing() == []
    assert run.environment["generator"] == "a master and 2 workers elsewhere"


def test_a_worker_that_leaves_does_not_prolong_the_run(story: Story) -> None:
    """Locust would wait a minute for all users."""
    assert story.run.phases["measure"][1] - story.run.phases["measure"][0] == SECONDS
    assert story.took_s < SECONDS + 30
    assert story.whole.status("first") == 0
    assert story.whole.status("run") != 0
    assert "Traceback" not in story.whole.log("run")


def test_missing_workers_end_the_run_with_one_line_before_the_measurement(story: Story) -> None:
    stage = story.lacking

    assert stage.status("run") == 2
    assert "sockets" not in stage.log("run")
    assert stage.lines("run") == ["loadtests: 1 of 2 workers came within 12 s"]
    assert not [process for process in story.below if process.is_running()]
    assert not list(stage.folder.glob("results/*/run.json"))


def test_the_worker_of_that_run_prints_why_it_ends(story: Story) -> None:
    stage = story.lacking

    assert stage.status("early") == 1
    assert stage.lines("early") == [
        f"loadtests: waiting for the master at 127.0.0.1:{stage.port}: Connection refused",
        "loadtests: the master ended: 1 of 2 workers came within 12 s",
    ]
    assert "Traceback" not in stage.log("early")


def test_a_port_in_use_is_noticed_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as stack:
        stage = Stage(tmp_path, stack, port=taken.getsockname()[1])
        stage.run("run")
        status = stage.status("run")

    assert status == 2
    assert stage.log("run") == f"loadtests: --bind 127.0.0.1:{stage.port}: Address already in use\n"
    assert not (tmp_path / "results").exists()


def test_a_master_that_cannot_be_reached_is_one_line_with_the_cause(capsys: pytest.CaptureFixture[str]) -> None:
    with bound_socket() as silent:
        address = silent.getsockname()
        with pytest.raises(OSError, match=f"^no master at 127.0.0.1:{address[1]} within 1 s: Connection refused$"):
            run_worker(address, 1, None, 1)
    with pytest.raises(OSError, match=r"^no master at host\.invalid:1 within 1 s: .*(known|resolution)"):
        run_worker(("host.invalid", 1), 1, None, 1)

    assert capsys.readouterr().err.count("waiting for the master") <= 2


def test_a_server_that_is_no_master_ends_a_worker_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, ExitStack() as stack:
        stage = Stage(tmp_path, stack, port=mute.getsockname()[1])
        stage.worker("worker", "--master-timeout", "2")
        status = stage.status("worker")

    assert status == 1
    assert stage.lines("worker") == [
        f"loadtests: no master of Locust answered at 127.0.0.1:{stage.port} within 2 s",
    ]
    assert "Traceback" not in stage.log("worker")
