"""The argument parser of gserver and gserverctl: an output that fails is an error, and no error is a traceback."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from gserver.errors import ConfigError

__all__ = ["CommandParser", "complain"]


def complain(program: str, text: str) -> None:
    """Print an error of one line on standard error."""
    with contextlib.suppress(OSError):  # the exit status reports the failure too
        print(f"{program}:", *text.splitlines(), file=sys.stderr)


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises ConfigError if standard output cannot be written."""

    has_output = True

    def print_out(self, text: str) -> None:
        """Write to standard output; ConfigError if that fails."""
        if not self.has_output:
            raise ConfigError("cannot write to standard output: it is closed")
        try:
            sys.stdout.flush()
            # A path may contain characters that the encoding lacks.
            rest = memoryview(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
            while rest:  # with PYTHONUNBUFFERED a write may take a part, and sys.stdout.write() drops the others
                rest = rest[sys.stdout.buffer.write(rest) or 0 :]
            sys.stdout.flush()
        except OSError as error:
            raise ConfigError(f"cannot write to standard output: {error.strerror}") from None

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print the help or the version through print_out(): argparse would ignore an OSError and exit with status 0.

        An OSError on standard error is ignored; argparse of Python 3.11.2 would raise it, and the status would be 1.
        """
        if file is sys.stdout:
            self.print_out(message)
        else:
            with contextlib.suppress(OSError):
                super()._print_message(message, file)
