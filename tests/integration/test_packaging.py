"""The source distribution, the wheel that is built from it, its metadata, and an installation of it.

Both are built from a copy of the tree, without the network, with the same calls as in `python -m build` and pip.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from loadtests.cli import SWARM
from tests.helpers.processes import wait_for

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
#: Tracked files that are of no use outside a clone of the repository.
LEFT_OUT = {".ci/run", ".dockerignore", ".gitignore"}


class Published(NamedTuple):
    sdist: Path  # unpacked
    wheel: Path
    metadata: Message

    def files(self) -> set[str]:
        return set(zipfile.ZipFile(self.wheel).namelist())

    def description(self) -> str:
        payload = self.metadata.get_payload()
        assert isinstance(payload, str)
        return payload


def build(kind: str, source: Path, to: Path, **environment: str) -> Path:
    program = f"import setuptools.build_meta as backend; backend.build_{kind}({str(to)!r})"
    before = set(to.glob("*"))
    subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, timeout=PATIENCE_S, check=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip
    (made,) = set(to.glob("*")) - before
    return made


def not_source(folder: str, names: list[str]) -> set[str]:
    """Return the ignored files of a working tree, which must not be published."""
    patterns = [".*", "__pycache__", "*.egg-info", "*.so", "build", "dist"]
    runs = ["[0-9]*T[0-9]*Z-*"] if Path(folder) == ROOT / "results" else []
    return {name for pattern in patterns + runs for name in fnmatch.filter(names, pattern)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Build without a compiler: compiling takes seconds, and only adds the compiled module to the files."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(ROOT, folder / "tree", ignore=not_source)
    (folder / "made").mkdir()
    with tarfile.open(build("sdist", folder / "tree", folder / "made")) as sdist:
        if hasattr(tarfile, "data_filter"):  # not in 3.11.3 and before
            sdist.extraction_filter = tarfile.data_filter
        sdist.extractall(folder)
    (unpacked,) = folder.glob("gserver_tcp-*")
    wheel = build("wheel", unpacked, folder / "made", CC="false")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return Published(unpacked, wheel, metadata)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestSourceDistribution:
    def test_has_all_that_a_clone_has(self, published: Published) -> None:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
        if listed.returncode:
            pytest.skip("this is no clone: what is tracked is not known")
        tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}

        assert tracked - LEFT_OUT - files_below(published.sdist) == set()

    def test_has_nothing_else(self, published: Published) -> None:
        made = {"PKG-INFO", "setup.cfg"}
        there = {name for name in files_below(published.sdist) if not re.match(r"gserver_tcp\.egg-info/|build/", name)}

        assert {name for name in there - made if not (ROOT / name).exists()} == set()
        assert {name for name in there if name.endswith((".pyc", ".so"))} == set()

    @pytest.mark.longhaul
    def test_its_tests_can_be_collected_and_run(self, published: Published) -> None:
        collected = self.pytest(published, "--collect-only")
        assert re.search(r"^tests/gserver/worker/test_worker\.py: \d+$", collected.stdout, re.M), collected.stdout
        assert collected.returncode == 0, collected.stdout[-2000:]

        files = [
            f"tests/{name}.py"
            for name in (
                "test_layering",
                "gserver/test_docgen",
                "gserver/test_cli",
                "integration/test_examples",
                "gserver/codecs/test_codecs",
                "loadtests/test_cli",
            )
        ]
        ran = self.pytest(published, "-m", "not alone", *files)
        assert ran.returncode == 0, ran.stdout[-2000:]

    def pytest(self, published: Published, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        return subprocess.run(
            command, cwd=published.sdist, capture_output=True, text=True, timeout=10 * PATIENCE_S, check=False
        )


class TestWheel:
    def test_has_the_two_packages_and_nothing_else(self, published: Published) -> None:
        tops = {name.partition("/")[0] for name in published.files()}

        assert {re.sub(r"^gserver_tcp-.*\.dist-info$", "dist-info", top) for top in tops} == {
            "gserver",
            "loadtests",
            "dist-info",
        }

    @pytest.mark.parametrize("package", ["gserver", "loadtests"])
    def test_has_every_file_of_a_package(self, package: str, published: Published) -> None:
        """Including data files and py.typed, but without the C source."""
        source = {f"{package}/{name}" for name in files_below(published.sdist / package)}

        assert {name for name in source - published.files() if "__pycache__" not in name} <= {"gserver/_native.c"}
        assert f"{package}/py.typed" in published.files()

    @pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
    def test_with_a_compiler_it_has_the_compiled_module(self, published: Published, tmp_path: Path) -> None:
        files = set(zipfile.ZipFile(build("wheel", published.sdist, tmp_path, CFLAGS="-O0")).namelist())

        assert [name.split(".")[0] for name in files - published.files() if name.endswith(".so")] == ["gserver/_native"]


class TestMetadata:
    def test_the_licence_is_an_expression_with_its_file(self, published: Published) -> None:
        assert published.metadata["License-Expression"] == "MIT"
        assert published.metadata.get_all("License-File") == ["LICENSE"]
        assert not [name for name in published.metadata.get_all("Classifier", []) if name.startswith("License")]

    def test_has_a_summary_and_keywords(self, published: Published) -> None:
        assert published.metadata["Summary"]
        assert {"tcp", "server", "gevent"} <= set(re.split(r"[ ,]+", published.metadata["Keywords"]))

    def test_the_description_has_no_relative_links(self, published: Published) -> None:
        described = published.description()
        text = re.sub(r"^```.*?^```$", "", described, flags=re.M | re.S)

        assert published.metadata["Description-Content-Type"] == "text/markdown"
        links = re.findall(r"\]\(([^)]*)\)|\]: *(\S+)|(?:src|href)=\"?([^\s\">]+)", text)
        assert [link for found in links for link in found if link and not link.startswith("https://")] == []
        assert "<img" not in text
        assert "![" not in text
        assert "docs/settings.md" in text  # the text of a link stays

    def test_the_description_has_the_code_of_the_readme_unchanged(self, published: Published) -> None:
        blocks = re.findall(r"^```.*?^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)

        assert blocks
        assert re.findall(r"^```.*?^```$", published.description(), re.M | re.S) == blocks


class TestPythons:
    """All files name the same versions of Python."""

    @pytest.fixture
    def claimed(self, published: Published) -> list[str]:
        classifiers = published.metadata.get_all("Classifier", [])
        found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in classifiers]
        return [match[1] for match in found if match]

    def test_the_oldest_is_what_is_required(self, claimed: list[str], published: Published) -> None:
        assert published.metadata["Requires-Python"] == f">={claimed[0]}"
        assert f"Python {claimed[0]} or newer" in (ROOT / "README.md").read_text("utf-8")

    def test_tox_has_each(self, claimed: list[str]) -> None:
        tox = ConfigParser()
        tox.read(ROOT / "tox.ini")
        environments = re.split(r"[,\s]+", tox["tox"]["env_list"])

        assert [name for name in environments if name.startswith("py")] == [
            f"py{version.replace('.', '')}" for version in claimed
        ]
        assert tox["testenv:lowest"]["base_python"] == f"py{claimed[0].replace('.', '')}"

    def test_mypy_and_ruff_check_for_the_oldest(self, claimed: list[str]) -> None:
        tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]

        assert tools["mypy"]["python_version"] == claimed[0]
        assert tools["ruff"]["target-version"] == f"py{claimed[0].replace('.', '')}"

    def test_make_refuses_an_older_one(self, claimed: list[str]) -> None:
        compared = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", (ROOT / "Makefile").read_text())

        assert [".".join(version) for version in compared] == claimed[:1]

    def test_this_version_is_among_them(self, claimed: list[str]) -> None:
        assert f"{sys.version_info.major}.{sys.version_info.minor}" in claimed


class TestRequirements:
    def requirements(self, published: Published) -> dict[str, Requirement]:
        parsed = [Requirement(text) for text in published.metadata.get_all("Requires-Dist", [])]
        return {each.name: each for each in parsed}

    def test_the_lowest_versions_are_those_that_are_tested(self, published: Published) -> None:
        lines = (ROOT / "lowest.txt").read_text().splitlines()
        tested = {name: f">={version}" for name, version in (line.split("==") for line in lines if line[:1] != "#")}

        asked = {name: str(each.specifier) for name, each in self.requirements(published).items() if each.specifier}
        assert asked == tested

    def test_installed_packages_are_within_them(self, published: Published) -> None:
        """Otherwise the suite would not test the published requirements."""
        here = {"extra": "test"}
        wrong = {
            name: importlib.metadata.version(name)
            for name, each in self.requirements(published).items()
            if (each.marker is None or each.marker.evaluate(here))
            and importlib.metadata.version(name) not in SpecifierSet(str(each.specifier))
        }

        assert wrong == {}

    def test_the_extra_sampler_is_psutil_alone(self, published: Published) -> None:
        assert self.of_extra(published, "sampler") == {"psutil"}

    def test_the_extra_loadtests_has_all_packages_of_a_swarm(self, published: Published) -> None:
        distributions = importlib.metadata.packages_distributions()

        assert {distributions[name][0] for name in SWARM} <= self.of_extra(published, "loadtests")

    def of_extra(self, published: Published, extra: str) -> set[str]:
        texts = published.metadata.get_all("Requires-Dist", [])
        return {Requirement(text).name for text in texts if f'extra == "{extra}"' in text}


class Installation:
    """A virtual environment with the wheel and without the packages of the extras."""

    NEEDED = ("gevent", "greenlet", "msgspec", "zope.event", "zope.interface")

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.run(sys.executable, "-m", "venv", "--without-pip", str(folder), check=True)
        python = folder / "bin/python"
        pip = (sys.executable, "-m", "pip", f"--python={python}", "install", "--no-index", "--no-deps")
        self.run(*pip, str(wheel), check=True)
        (self.packages,) = folder.glob("lib/python3*/site-packages")
        for name in self.NEEDED:
            self.lend(name)

    def lend(self, name: str) -> None:
        """Link a package of this interpreter into the environment."""
        files = importlib.metadata.files(name)
        assert files is not None
        for top in {file.parts[0] for file in files if not file.parts[0].startswith((".", "__pycache__"))}:
            if not (self.packages / top).exists():
                (self.packages / top).symlink_to(Path(str(files[0].locate())).parents[len(files[0].parts) - 1] / top)

    def run(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder.parent, capture_output=True, text=True, timeout=PATIENCE_S, check=check
        )

    def command(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.folder / "bin" / name), *words)


@pytest.fixture(scope="module")
def installation(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("there is no pip beside this interpreter")
    return Installation(tmp_path_factory.mktemp("installed") / "env", published.wheel)


class TestInstallation:
    def test_the_server_is_ready(self, installation: Installation) -> None:
        ended = installation.command("gserver", "json", "-b", "127.0.0.1:0", "--check-config")

        assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)

    def test_tests_and_benchmarks_are_not_installed(self, installation: Installation) -> None:
        program = "import importlib.util; print([importlib.util.find_spec(name) for name in ('tests', 'benchmarks')])"

        assert installation.command("python", "-I", "-c", program).stdout == "[None, None]\n"

    @pytest.mark.parametrize("command", [["loadtests"], ["python", "-m", "loadtests"]])
    def test_loadtests_prints_the_extra_to_install(self, command: list[str], installation: Installation) -> None:
        ended = installation.command(*command, "run", "smoke")

        assert (ended.returncode, ended.stdout) == (2, "")
        assert re.fullmatch(
            r"loadtests run: \w+ is not installed: pip install 'gserver-tcp\[loadtests\]'\n", ended.stderr
        )

    def test_loadtests_sample_needs_only_psutil(self, installation: Installation, tmp_path: Path) -> None:
        samples = tmp_path / "samples"
        words = ["sample", "--output", str(samples), "--pid"]
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as server:
            try:
                ended = installation.command("loadtests", *words, str(server.pid))
                assert ended.stderr == "loadtests sample: psutil is not installed: pip install 'gserver-tcp[sampler]'\n"
                assert ended.returncode == 2
                installation.lend("psutil")
                command = [str(installation.folder / "bin/loadtests"), *words, str(server.pid)]
                with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as sampler:
                    try:
                        wait_for(lambda: samples.exists() and bool(samples.read_text()), "a sample", PATIENCE_S)
                        server.kill()
                        _, error = sampler.communicate(timeout=PATIENCE_S)
                    finally:
                        sampler.kill()
            finally:
                server.kill()

        assert (sampler.returncode, error) == (0, f"loadtests sample: process {server.pid} has ended\n")
