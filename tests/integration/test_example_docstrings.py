"""Run every command in the docstrings of the example services, in its order, and compare the output with that shown."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import Reader
from tests.helpers.examples import EXAMPLES, documented_commands

SERVICES = ["chat", "device_gateway", "jsonrpc", "mutual_tls", "resp"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_command_works(tmp_path: Path, name: str) -> None:
    commands = list(documented_commands(name))
    programs = {shlex.split(command)[0].strip("(") for command, _ in commands}
    assert {"gserver", "loadtests"} <= programs
    path = f"{Path(sys.executable).parent}"
    missing = [each for each in programs if not (shutil.which(each) or shutil.which(each, path=path))]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    with contextlib.ExitStack() as servers:
        reader = Reader(tmp_path, servers)
        for settings in tmp_path.glob("*.conf.py"):
            settings.write_text(reader.with_free_ports(settings.read_text()))
        for command, shown in commands:
            reader.type(command, shown)
