"""The examples are as good as they say, as far as a machine without systemd and Docker running can tell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gserver.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_units_are_what_systemd_accepts(tmp_path: Path) -> None:
    for unit in (EXAMPLES / "systemd").iterdir():
        # The only thing that is not on this machine is the command.
        (tmp_path / unit.name).write_text(re.sub(r"/srv/myapp/venv/bin/gserver", sys.executable, unit.read_text()))
    units = [str(path) for path in tmp_path.iterdir()]
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_units_use_flags_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "systemd" / "gserver.service").read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    known = capsys.readouterr().out

    flags = re.findall(r"(?<= )--[a-z-]+", " ".join(re.findall(r"^Exec.*$", text, re.M)))
    assert flags
    assert [flag for flag in flags if flag not in known] == []


def test_the_command_of_the_container_can_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    words = [json.loads(found) for found in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", text, re.M)]
    (program, *_), arguments = words

    assert program == "gserver"
    assert main([*arguments, "--print-config"]) == 0
    assert "bind = 0.0.0.0:3001" in capsys.readouterr().out


def test_the_container_copies_and_installs_what_there_is() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()

    assert "COPY . /src" in text
    assert (EXAMPLES.parent / "setup.py").exists()
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.M)
