"""The command `gserver`, and `python -m gserver`.

Standard input, output and error are opened here, before the rest of the server is imported. An import may open a file
and keep it open; that file would get the descriptor of a closed standard stream. libffi does so for ctypes: it keeps
its own library open if it was built with static trampolines.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from gserver.process.daemon import drop_unwritten, open_standard

__all__ = ["entry_point"]


def entry_point() -> NoReturn:
    """Run the command line of this process, and exit with its status."""
    closed = open_standard()
    try:
        sys.exit(importlib.import_module("gserver.cli").main(sys.argv[1:], 1 not in closed))
    finally:
        drop_unwritten()


if __name__ == "__main__":
    entry_point()
