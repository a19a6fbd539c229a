from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import toolchain
from benchmarks.toolchain import Missing, Toolchain, default_cache, versions

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

PROGRAM = '#include <stdio.h>\nint main(void) { puts("%s"); }\n'


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain whose programs are in tmp_path/peers."""
    (tmp_path / "peers").mkdir()
    monkeypatch.setattr(toolchain, "PEERS", tmp_path / "peers")
    return Toolchain(tmp_path / "cache")


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_gcc
def test_a_program_is_compiled_once_and_again_when_its_source_changes(tools: Toolchain, tmp_path: Path) -> None:
    source = tmp_path / "peers" / "say.c"
    source.write_text(PROGRAM % "one")
    first = tools.command_of("say.c")
    made_at = os.stat(first[0]).st_mtime_ns

    assert run(first) == "one\n"
    assert tools.command_of("say.c") == first
    assert os.stat(first[0]).st_mtime_ns == made_at
    source.write_text(PROGRAM % "two")
    assert run(tools.command_of("say.c")) == "two\n"


@needs_gcc
def test_a_program_that_does_not_compile_is_missing_and_leaves_nothing(tools: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "peers" / "bad.c").write_text("#error it cannot be\n")
    with pytest.raises(Missing, match=r"gcc failed: .*it cannot be"):
        tools.command_of("bad.c")

    assert list((tmp_path / "cache").iterdir()) == []


def test_scripts_are_run_by_this_interpreter(tools: Toolchain) -> None:
    (command, script) = tools.command_of("some.py")

    assert command == sys.executable
    assert script.endswith("some.py")


@pytest.mark.parametrize(("program", "tool"), [("a.c", "gcc"), ("a.go", "go"), ("a.js", "node")])
def test_without_its_tool_a_program_is_missing(
    tools: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, tool: str
) -> None:
    (tmp_path / "peers" / program).touch()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=f"^{tool} is not installed$"):
        tools.command_of(program)


def test_without_gcc_there_is_no_client(tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for tls in (False, True):
        with pytest.raises(Missing, match=r"^gcc is not installed$"):
            tools.client(tls)


@needs_gcc
def test_without_the_headers_of_openssl_there_is_no_client_for_tls(
    tools: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "OPENSSL_HEADER", "#include <openssl/not_there.h>\n")
    with pytest.raises(Missing, match="libssl-dev"):
        tools.client(tls=True)

    assert Path(tools.client(tls=False)).is_file()


@needs_openssl
def test_a_certificate_is_made_once(tools: Toolchain) -> None:
    files = tools.certificate()
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
    made_at = os.stat(files[0]).st_mtime_ns

    assert tools.certificate() == files
    assert os.stat(files[0]).st_mtime_ns == made_at


def test_without_openssl_there_is_no_certificate(tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"^openssl is not installed$"):
        tools.certificate()


def test_programs_are_kept_where_caches_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "gserver-benchmarks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "gserver-benchmarks"


def test_versions_are_those_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "VERSIONS", {"python": [sys.executable, "--version"], "no-such-tool": ["x"]})
    found = versions()

    assert found["python"].startswith("Python 3")
    assert "no-such-tool" not in found
