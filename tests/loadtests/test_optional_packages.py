"""Without the packages of an extra, a command ends with one line that names the extra."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtests.cli import COMMANDS
from loadtests.optional_packages import MissingPackage, needs, require
from tests.helpers.processes import wait_for

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
PACKAGES = ("locust", "psutil", "hdrh", "scipy", "altair", "vl_convert", "jinja2", "rich")
#: A sitecustomize.py that hides the modules in $HIDDEN from every interpreter with its folder on the path.
HIDING = """
    import os
    import sys


    class Hiding:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in os.environ["HIDDEN"].split():
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)


    sys.meta_path.insert(0, Hiding())
"""
#: Arguments with which each command does some work.
ARGUMENTS = {
    "run": ["smoke", "--results", "{folder}"],
    "worker": ["--master", "127.0.0.1"],
    "report": [str(ROOT / "results/smoke"), "--markdown"],
    "compare": [str(ROOT / "results/smoke"), str(ROOT / "results/smoke")],
    "doctor": [],
    "ab": ["gserver:echo", "--aa", "--results", "{folder}"],
    "history": [str(ROOT / "results")],
}


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Installation:
    """This interpreter without some packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(textwrap.dedent(HIDING))

    def start(self, *words: str, without: Sequence[str]) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "HIDDEN": " ".join(without)}
        command = [sys.executable, *(word.format(folder=self.folder / "results") for word in words)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.folder
        )

    def python(self, *words: str, without: Sequence[str]) -> Ended:
        with self.start(*words, without=without) as process:
            try:
                output, error = process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()
        return Ended(process.returncode, output, error)

    def loadtests(self, *words: str, without: Sequence[str]) -> Ended:
        return self.python("-m", "loadtests", *words, without=without)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_without_the_extra_a_command_is_one_line(name: str, installation: Installation) -> None:
    ended = installation.loadtests(name, *ARGUMENTS[name], without=PACKAGES)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"loadtests {name}: ")
    assert ended.stderr.endswith(" is not installed: pip install 'gserver-tcp[loadtests]'\n")
    assert ended.stderr.count("\n") == 1


def test_every_command_was_tried() -> None:
    assert set(ARGUMENTS) | {"sample", "list"} == set(COMMANDS)


@pytest.mark.parametrize("package", ["locust", "psutil", "hdrh", "scipy"])
@pytest.mark.parametrize("name", ["run", "ab"])
def test_a_package_that_is_needed_at_the_end_of_a_run_is_checked_at_the_start(
    name: str, package: str, installation: Installation
) -> None:
    ended = installation.loadtests(name, *ARGUMENTS[name], without=[package])

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"loadtests {name}: {package} is not installed: pip install 'gserver-tcp[loadtests]'\n"
    assert not (installation.folder / "results").exists()


@pytest.mark.parametrize("package", ["altair", "vl_convert", "jinja2"])
def test_a_missing_package_for_pictures_is_one_line(package: str, installation: Installation) -> None:
    words = ["report", str(ROOT / "results/smoke"), "--markdown", "--html", "{folder}.html"]
    ended = installation.loadtests(*words, without=[package])

    assert ended.returncode == 2
    assert ended.stderr == f"loadtests report: {package} is not installed: pip install 'gserver-tcp[loadtests]'\n"


@pytest.mark.parametrize("words", [["list"], ["--help"]])
def test_commands_that_need_no_package_work_without(words: list[str], installation: Installation) -> None:
    ended = installation.loadtests(*words, without=PACKAGES)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


class TestSample:
    def test_names_the_light_extra(self, installation: Installation) -> None:
        ended = installation.loadtests("sample", "--pid", "1", "--listen", "127.0.0.1:0", without=PACKAGES)

        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == "loadtests sample: psutil is not installed: pip install 'gserver-tcp[sampler]'\n"

    def test_needs_psutil_alone(self, installation: Installation) -> None:
        hidden = [*(name for name in PACKAGES if name != "psutil"), "gevent"]
        samples = installation.folder / "samples"
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as server:
            words = ["-m", "loadtests", "sample", "--pid", str(server.pid), "--output", str(samples)]
            with installation.start(*words, without=hidden) as sampler:
                try:
                    wait_for(lambda: samples.exists() and bool(samples.read_text()), "a sample", PATIENCE_S)
                    server.kill()
                    output, error = sampler.communicate(timeout=PATIENCE_S)
                finally:
                    server.kill()
                    sampler.kill()

        assert (sampler.returncode, output, error) == (0, "", f"loadtests sample: process {server.pid} has ended\n")
        assert samples.read_text().count("\n") >= 1


@pytest.mark.parametrize("package", ["locust", "hdrh", "psutil"])
@pytest.mark.parametrize(
    "statement", ["from loadtests.users import TcpUser", "import loadtests.stock", "import loadtests.locustfile"]
)
def test_an_import_into_a_locust_file_ends_with_that_line(
    statement: str, package: str, installation: Installation
) -> None:
    (installation.folder / "mine.py").write_text(f"{statement}\n")
    ended = installation.python("mine.py", without=[package])

    assert ended.returncode != 0
    error = f"MissingPackage: {package} is not installed: pip install 'gserver-tcp[loadtests]'"
    assert f"\nloadtests.optional_packages.{error}\n" in ended.stderr
    assert "During handling" not in ended.stderr


class TestNeeds:
    def test_a_package_that_is_too_old_is_named_with_the_reason(self) -> None:
        with pytest.raises(MissingPackage) as caught, needs():
            from rich import NoSuchName  # type: ignore[attr-defined]  # noqa: F401

        assert str(caught.value).startswith("rich cannot be used (cannot import name 'NoSuchName' from 'rich'")
        assert str(caught.value).endswith("): pip install 'gserver-tcp[loadtests]'")

    @pytest.mark.parametrize("module", ["gserver.no_such_module", "loadtests.no_such_module", "json.no_such_module"])
    def test_a_missing_module_of_gserver_loadtests_or_python_is_another_error(self, module: str) -> None:
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{module}'") as caught, needs():
            __import__(module)

        assert not isinstance(caught.value, MissingPackage)

    def test_the_inner_of_two_names_the_extra(self) -> None:
        with pytest.raises(MissingPackage, match=r"\[sampler\]"), needs("loadtests"), needs("sampler"):
            __import__("no_such_package")

    def test_other_errors_pass(self) -> None:
        with pytest.raises(ZeroDivisionError), needs():
            _ = 1 // 0


def test_required_packages_are_looked_for_and_not_imported() -> None:
    program = (
        "import sys; from loadtests.optional_packages import require; require('locust'); print('locust' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout == "False\n"
    with pytest.raises(MissingPackage, match="no_such_package is not installed"):
        require("os", "no_such_package")
