from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.servers import toolchain
from loadtests.servers.toolchain import Missing, Toolchain

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

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
