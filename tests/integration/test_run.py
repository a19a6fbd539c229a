"""`loadtests run`: with a server that it starts, with a running server, and with failures."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from loadtests.results.metrics import figures_of, measure_window
from loadtests.results.store import Run, load_recording, load_run, load_samples
from tests.helpers.loadtests_swarms import bound_socket
from tests.helpers.processes import GserverProcess, wait_for

pytestmark = pytest.mark.long

PATIENCE_S = 120.0


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `loadtests run`; a run that a failing test leaves is interrupted, and so ends its processes."""
    begun = []

    def start(results: Path, *arguments: str) -> subprocess.Popen[str]:
        begun.append(begin(results, *arguments))
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def begin(results: Path, *arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loadtests", "run", *arguments, "--results", str(results)]
    limits = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit // 2, limit))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limits)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@dataclass
class Ended:
    """A run that has ended by itself."""

    results: Path
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All undisturbed runs, by name. They run at the same time, because they mostly wait."""
    folder = tmp_path_factory.mktemp("runs")
    with GserverProcess(folder, "echo") as server:
        there = ("echo", "--users", "10", "--host", "tcp://{}:{}".format(*server.address))
        begun = {
            "of its own": begin(folder / "own", "smoke", "--duration", "3", "--label", "a label", "--workers", "2"),
            "sampled": begin(folder / "sampled", *there, "--duration", "2", "--server-pid", str(server.process.pid)),
            "blind": begin(folder / "blind", *there, "--duration", "2", "--message", "hello", "--codec", "raw"),
            "limited": begin(folder / "limited", "json", "--users", "150", "--duration", "2", limit=300),
        }
        try:
            return {name: Ended(folder / name.split()[-1], *finish(process)) for name, process in begun.items()}
        finally:
            for process in begun.values():
                process.kill()
                process.communicate()


def status_of(run: Run) -> int:
    """Return the exit status of a run without errors."""
    return 0 if run.verdict.is_valid else 3


def only_run(results: Path) -> Path:
    (folder,) = results.iterdir()
    return folder


def assert_nothing_left(results: Path) -> None:
    """Check that all processes of runs in `results` have ended."""

    def left() -> list[psutil.Process]:
        return [process for process in psutil.process_iter(["cmdline"]) if mentions(process, results)]

    wait_for(lambda: not left(), f"the end of {left()}")


def mentions(process: psutil.Process, results: Path) -> bool:
    return any(str(results) in word for word in process.info["cmdline"] or [])


def test_the_server_is_sampled_in_a_second_before_the_first_socket(ended: dict[str, Ended]) -> None:
    """What the server used before the first request is not part of the figures."""
    folder = only_run(ended["of its own"].results)
    first_second = min(load_recording(folder / "client.json").sockets())

    assert load_samples(folder / "samples.jsonl")[0]["time_s"] < first_second
    run = load_run(folder)
    assert run.figure("server_rss_per_socket") is None
    assert "this run rested at" in run.withheld["server_rss_per_socket"]


def test_a_run_leaves_a_complete_folder(ended: dict[str, Ended]) -> None:
    own = ended["of its own"]
    folder = only_run(own.results)
    run = load_run(folder)

    assert own.status == status_of(run), own.err
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "client.json",
        "samples.jsonl",
        "report.md",
        "server.log",
        "locust.log",
        "sampler.log",
    }
    assert str(folder / "report.md") in own.out
    assert "of 50 sockets" in own.err
    assert (run.label, run.errors) == ("a label", {})
    # Of all connections of the machine, so those of other tests count too.
    assert [warning for warning in run.warnings if "sent again" not in warning] == []
    assert run.server["command"].startswith("gserver json -b 127.0.0.1:0 -w 2 ")
    assert run.environment["generator"] == "1 process"
    assert run.figures == figures_of(
        load_recording(folder / "client.json"), load_samples(folder / "samples.jsonl"), run.phases, 500
    )
    assert list(run.phases) == ["ramp", "warmup", "measure", "cooldown"]
    assert measure_window(run.phases).length_s == 3
    assert not [reason for reason in run.verdict.reasons if "server counted" in reason]
    figures = {figure.name: figure.value for figure in run.figures}
    assert figures["sockets_peak"] == 50
    assert figures["connects_ok"] == 50
    assert figures["exchanges_ok"] > 500
    assert figures["server_processes"] == 3
    assert 1 < figures["server_cpu_per_exchange"] < 5000
    assert 0 < figures["service_p50"] <= figures["response_p99"] <= figures["response_max"]
    assert_nothing_left(own.results)


def test_a_running_server_is_tested_and_sampled_by_its_pid(ended: dict[str, Ended]) -> None:
    sampled, blind = ended["sampled"], ended["blind"]

    for each in (sampled, blind):
        assert each.status == status_of(load_run(only_run(each.results))), each.err
    assert load_run(only_run(sampled.results)).figure("server_cpu_per_exchange")
    assert not load_run(only_run(blind.results)).figure("server_cpu_per_exchange")
    assert load_run(only_run(blind.results)).warnings == ["the server was not sampled: --server-pid was not given"]


def test_any_message_can_be_sent_to_any_server(ended: dict[str, Ended]) -> None:
    run = load_run(only_run(ended["blind"].results))

    assert (run.workload["user"], run.workload["message"], run.workload["codec"]) == ("MessageUser", "hello", "raw")
    assert load_recording(run.path / "client.json").exchange_series()[-1] == "message"


def test_a_run_with_a_server_that_dies_can_be_read(tmp_path: Path, start: Start) -> None:
    with GserverProcess(tmp_path, "json") as server:
        host = "tcp://{}:{}".format(*server.address)
        common = ("smoke", "--users", "10", "--duration", "3", "--host", host)
        process = start(tmp_path / "runs", *common, "--server-pid", str(server.process.pid))
        wait_for_sockets(process)
        for one in server.tree():
            one.kill()
        server.wait()
        status, out, err = finish(process)

    run = load_run(only_run(tmp_path / "runs"))
    assert status == 1
    assert "Traceback" not in out + err
    assert run.errors["connect: refused"] > 0
    assert "Error: connect: refused" in out


def wait_for_sockets(process: subprocess.Popen[str]) -> None:
    """Read the progress until it shows sockets."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if "sockets" in line:
            return
    raise AssertionError("the run ended without progress")


def test_sockets_that_one_process_cannot_hold_are_spread_over_several(ended: dict[str, Ended]) -> None:
    """The soft limit is raised to the hard limit of 300 open files, of which 100 are left for sockets."""
    limited = ended["limited"]
    run = load_run(only_run(limited.results))

    assert limited.status == status_of(run), limited.err
    assert run.environment["generator"] == "2 processes and a master"
    assert "-w 2" in run.server["command"]
    assert [figure.value for figure in run.figures if figure.name == "sockets_peak"] == [150]
    assert not [reason for reason in run.verdict.reasons if "server counted" in reason or "Worker" in reason]


def test_a_started_server_that_dies_ends_the_run_and_the_run_is_saved(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, "smoke", "--duration", "60", "--workers", "2")
    wait_for_sockets(process)
    arbiter = next(child for child in psutil.Process(process.pid).children() if "gserver" in " ".join(child.cmdline()))
    arbiter.kill()
    status, out, err = finish(process)

    run = load_run(only_run(tmp_path))
    assert status == 1
    assert "Traceback" not in out + err
    assert run.errors["server: ended in the middle"] == 1
    assert "The server ended with status -9 in the middle of the run: see server.log" in err
    assert run.verdict.state == "incomplete"
    assert_nothing_left(tmp_path)
    wait_for(lambda: not cmdlines_with(run.server["address"]), "the workers' end")


def cmdlines_with(url: str) -> list[str]:
    """Return the command lines that contain the port of `url`."""
    port = url.rpartition(":")[2]
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if f"127.0.0.1:{port}" in line]


def test_ctrl_c_term_and_hup_save_the_results_and_leave_no_process(tmp_path: Path, start: Start) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    begun = {number: start(tmp_path / str(number), "smoke", "--duration", "60") for number in numbers}
    for number, process in begun.items():
        wait_for_sockets(process)
        process.send_signal(number)
    for number, process in begun.items():
        status, out, err = finish(process)
        run = load_run(only_run(tmp_path / str(number)))

        assert status == 130, err
        assert run.verdict.state == "incomplete"
        assert "It was interrupted before its time." in run.verdict.reasons
        assert run.figure("exchanges_ok")
        assert "interrupted before its time" in out
        assert "Traceback" not in out + err
        assert cmdlines_with(run.server["address"]) == []
    assert_nothing_left(tmp_path)


def test_an_interrupt_before_the_measurement_prints_one_line(tmp_path: Path, start: Start) -> None:
    process = start(tmp_path, "smoke", "--duration", "60")
    wait_for(lambda: any(tmp_path.glob("*/server.log")), "the server's start")
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)

    assert status == 130
    assert err.splitlines()[-1] == "loadtests: interrupted"
    assert "Traceback" not in out + err
    assert_nothing_left(tmp_path)


def test_a_server_that_cannot_be_tested_prints_one_line_and_leaves_no_folder(tmp_path: Path, start: Start) -> None:
    with GserverProcess(tmp_path, "echo") as server, bound_socket() as nobody:
        echo, refused = ("tcp://{}:{}".format(*address) for address in (server.address, nobody.getsockname()))
        begun = {
            "there is no such process": (2, start(tmp_path / "a", "echo", "--host", echo, "--server-pid", "4194305")),
            "does not reply as JsonUser expects": (2, start(tmp_path / "b", "json", "--host", echo)),
            "does not reply within 3 s: [Errno 111] Connection refused": (
                2,
                start(tmp_path / "c", "smoke", "--host", refused),
            ),
        }
        for says, (expected, process) in begun.items():
            status, out, err = finish(process)

            assert status == expected
            assert says in err
            assert (out, err.count("\n")) == ("", 1)

    assert not [path for name in "abc" for path in (tmp_path / name).glob("*")]
