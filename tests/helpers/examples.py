"""The examples of the project: as modules, and the commands in their docstrings."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

__all__ = ["EXAMPLES", "documented_commands", "load_example"]

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    """Import examples/`name`.py as a new module, with state of its own."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def documented_commands(name: str) -> Iterator[tuple[str, str]]:
    """Yield each command in the docstring of an example, and the output that follows it there.

    A command begins with `$ ` in an indented block, and may be continued with a backslash at the end of a line.
    """
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or ""
    for found in re.finditer(r"^    \$ ((?:.*\\\n)*.*)\n?((?:    (?!\$ ).*(?:\n|\Z))*)", text, re.M):
        yield re.sub(r"\\\n\s*", "", found[1]), re.sub(r"^    ", "", found[2], flags=re.M)
