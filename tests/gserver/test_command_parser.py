"""The argument parser of gserver and gserverctl: an output that fails is an error."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from gserver.command_parser import CommandParser, complain
from gserver.errors import ConfigError

PRINTER = """
import sys
from gserver.command_parser import CommandParser
from gserver.errors import ConfigError
try:
    CommandParser().print_out("x" * 1_000_000 + "\\u20ac")
except ConfigError as error:
    sys.exit(f"{error}")
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("is_read", [True, False])
def test_all_is_written_or_it_is_an_error(unbuffered: str, is_read: bool) -> None:
    """With PYTHONUNBUFFERED a write to a pipe takes 64 KiB, and sys.stdout.write() drops the rest."""
    here, there = os.pipe()
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTER], stdout=there, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(there)
    received = bytearray(os.read(here, 10))
    if is_read:
        while data := os.read(here, 1 << 16):
            received += data
    os.close(here)
    _, errors = process.communicate(timeout=60)

    if is_read:
        assert (process.returncode, errors) == (0, "")
        assert received == b"x" * 1_000_000 + b"\\u20ac"
    else:
        assert (process.returncode, errors) == (1, "cannot write to standard output: Broken pipe\n")


def test_a_closed_output_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="p")
    parser.print_out("a\n")
    parser.has_output = False
    with pytest.raises(ConfigError, match=r"^cannot write to standard output: it is closed$"):
        parser.print_help()

    assert capsys.readouterr().out == "a\n"


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    complain("p", "two\nlines")
    assert capsys.readouterr().err == "p: two lines\n"

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    complain("p", "nobody reads it")
