"""The command python -m benchmarks, and each job once, briefly, with a peer that starts fast."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli
from benchmarks.cli import main
from benchmarks.jobs import JOBS
from benchmarks.toolchain import Toolchain
from loadtests.servers.toolchain import Missing

MOMENT = ["--rounds", "1", "--seconds", "0.1"]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers import gserver and benchmarks from where this process does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    monkeypatch.delenv("GSERVER_CMD_ARGS", raising=False)


def measure(cache: Path, *words: str) -> dict[str, Any]:
    """Run the command; return its JSON document."""
    file = cache / "results.json"
    status = main([*words, *MOMENT, "--cache", str(cache), "--json", str(file)])
    found: dict[str, Any] = json.loads(file.read_text())

    assert status == 0
    return found


#: Job -> options that make it small, and the servers that are measured.
SMALL = {
    "echo": ("--peers c,gevent --connections 3", ["ours", "c", "gevent"]),
    "json": ("--peers gevent --connections 3 --depth 4", ["ours", "gevent"]),
    "churn": ("--peers c --connections 3", ["ours", "c"]),
    "idle": ("--peers c --connections 1000", ["ours", "c"]),
    "tls": ("--peers gevent --connections 3 --payload 64", ["ours", "gevent"]),
    "handshakes": ("--peers gevent --connections 3", ["ours", "gevent"]),
    "cluster": ("--peers , --connections 4", ["ours"]),
    "sockets": ("--peers , --connections 2,4", ["ours"]),
    "sizes": ("--peers , --connections 2 --payload 64,100000", ["ours"]),
    "broadcast": ("--connections 5", ["ours", "send"]),
}


def test_every_job_is_tried() -> None:
    assert set(SMALL) == set(JOBS)


@needs_gcc
@pytest.mark.parametrize(
    "job", [each if each in ("echo", "idle") else pytest.param(each, marks=pytest.mark.longhaul) for each in SMALL]
)
def test_a_job_measures_ours_and_its_peers(job: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if job == "cluster" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is only one core")
    if job in ("tls", "handshakes") and not (shutil.which("openssl") and has_openssl_headers(cache)):
        pytest.skip("OpenSSL, or its headers, are not installed")
    options, names = SMALL[job]
    document = measure(cache, job, *options.split())
    printed = capsys.readouterr().out

    assert document["skipped"] == []
    for scenario in document["scenarios"]:
        assert set(scenario["rounds"]) == set(names)
        assert set(scenario["ratios"]) == set(names) - {"ours"}
        for rounds in scenario["rounds"].values():
            assert len(rounds) == 1
            assert all(
                value >= 0 for figure, value in rounds[0].items() if value is not None and figure != "bytes_conn"
            )
            if job == "idle":
                assert rounds[0]["bytes_conn"] < 10_000
            else:
                assert rounds[0]["msg_s"] > 0
                assert 0 < rounds[0]["p50_us"] <= rounds[0].get("p99_us", float("inf"))
    assert f"{job}: {JOBS[job].about}" in printed
    assert all(re.search(rf"^{name} ", printed, re.M) for name in names)
    assert ("as a multiple of the value with" in printed) == (job in ("sockets", "sizes"))


def has_openssl_headers(cache: Path) -> bool:
    try:
        return bool(Toolchain(cache).client(tls=True))
    except Missing:
        return False


@needs_gcc
def test_a_server_that_fails_is_named_and_the_others_are_measured(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = "broken=python3 -c 'raise SystemExit(\"no {port}\")'"
    status = main(
        [
            "echo",
            *MOMENT,
            "--peers",
            "c",
            "--ours",
            f"{c_server(cache)} {{port}}",
            "--against",
            broken,
            "--cache",
            str(cache),
        ]
    )
    printed = capsys.readouterr()

    assert status == 1
    assert re.search(r"^failed: echo: .*: broken: it ended with status 1 .*last output: no \d+$", printed.err, re.M)
    assert "ours / c" in printed.out
    assert "Traceback" not in printed.err


def c_server(cache: Path) -> str:
    return Toolchain(cache).command_of("echo_epoll.c")[0]


@needs_gcc
def test_markdown_has_headings_and_tables(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--peers", "c", "--ours", f"{c_server(cache)} {{port}}", "--markdown", "--seed", "7"]
    measure(cache, "echo", *words)
    printed = capsys.readouterr().out

    assert "### echo: echo of raw bytes\n" in printed
    assert re.search(r"^\| ours / c +\|", printed, re.M)
    assert "seed 7" in printed


def test_a_job_whose_tools_are_missing_is_skipped_with_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    status = main(["echo", "tls", *MOMENT, "--cache", str(cache / "empty")])
    printed = capsys.readouterr()

    assert status == 0
    assert "skipped: echo: gcc is not installed\nskipped: tls: openssl is not installed\n" in printed.out
    assert printed.err == ""


@needs_gcc
def test_more_connections_than_open_files_are_skipped_with_the_limit(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit >= 1_000_000:
        pytest.skip("the limit is too high to exceed")
    status = main(["echo", *MOMENT, "--connections", str(limit), "--cache", str(cache)])

    assert status == 0
    assert f"a process can open at most {limit:,} files here (ulimit -n)" in capsys.readouterr().out


def test_a_job_that_needs_more_cores_is_skipped(
    cache: Path, capsys: pytest.CaptureFixture[str], one_core: None
) -> None:
    status = main(["cluster", *MOMENT, "--cache", str(cache)])
    printed = capsys.readouterr().out

    assert status == 0
    assert "skipped: cluster: needs 2 cores, and this process may use 1\n" in printed
    assert re.search(r"^server and load share core \d+, the only one;", printed, re.M)


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ecko"], "there is no job 'ecko'; the jobs are echo, json,"),
        (["json", "--payload", "64"], "--payload does not apply to the job json"),
        (["echo", "--json", "/no/such/folder/x"], "there is no folder /no/such/folder"),
    ],
)
def test_arguments_that_do_not_fit_together_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err

    assert error.startswith("benchmarks: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: JOB"),
        (["echo", "--peers", "nodejs"], "there is no peer 'nodejs'; the peers are c, go, node"),
        (["echo", "--ours", "serve"], "'serve' has no placeholder for its port: {port}"),
        (["echo", "--ours", "'{port}"], "No closing quotation"),
        (["echo", "--against", "serve {port}"], "is not NAME=COMMAND with a NAME that no other server has"),
        (["echo", "--against", "c=serve {port}"], "is not NAME=COMMAND with a NAME that no other server has"),
        (["echo", "--rounds", "0"], "'0' is not a whole number from 1 to 1,000"),
        (["echo", "--connections", "5,x"], "'x' is not a whole number from 1 to 1,000,000"),
        (["echo", "--payload", "9" * 5000], "is not a whole number from 1 to 67,108,864"),
        (["echo", "--depth", ""], "'' is not a whole number from 1 to 10,000"),
        (["echo", "--seconds", "nan"], "'nan' is not a number of seconds above 0 and below 3600"),
        (["echo", "--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(words)

    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_an_interrupt_prints_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli.Session, "carry_out", interrupted)

    assert main(["echo", "--cache", str(cache)]) == 130
    assert capsys.readouterr().err == "benchmarks: interrupted\n"


def started_without(*packages: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks --help` in an interpreter that cannot import these packages."""
    block = f"import sys, runpy; sys.modules |= dict.fromkeys({packages!r}); sys.argv = ['benchmarks', '--help']"
    program = f"{block}; runpy.run_module('benchmarks', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_it_needs_no_package_of_the_load_tests_but_psutil() -> None:
    finished = started_without("locust", "hdrh", "uvloop", "scipy", "numpy")

    assert (finished.returncode, finished.stderr) == (0, "")


def test_without_psutil_it_prints_how_to_install_it() -> None:
    finished = started_without("psutil")

    assert finished.returncode == 1
    assert re.search(r"^benchmarks: psutil .*pip install 'gserver-tcp\[sampler\]'\n\Z", finished.stderr)


def test_the_help_names_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out

    assert all(re.search(rf"^  {name} ", shown, re.M) for name in [*JOBS, "scaling"])
