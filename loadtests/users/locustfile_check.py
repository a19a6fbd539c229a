"""Checks a user's Locust file before a run starts anything, in a process of its own.

Importing such a file patches the standard library. It may also print, end Python or never return. The process writes
the problem that it finds, or "fine", into the file RESULT.

    python -m loadtests.users.locustfile_check LOCUSTFILE RESULT [CLASS]
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from loadtests.host.subprocesses import python_module
from loadtests.text_encoding import SHOWABLE

__all__ = ["check_users"]

#: For the import of the file, and for that of Locust, which takes a second.
TIMEOUT_S = 60.0
FINE = "fine"


def check_users(file: Path, name: str | None) -> None:
    """Raise ValueError, with one line that gives the reason, if a run cannot use a Locust file.

    name: the user class that is needed; None: any TcpUser will do.
    """
    if file.suffix != ".py":
        raise ValueError(f"--file is {str(file)!r}, must be a Python file, FILE.py: Locust loads no other")
    if "," in str(file.resolve()):
        raise ValueError(f"--file is {str(file.resolve())!r}, must be a path without a comma: Locust splits it there")
    with tempfile.TemporaryDirectory(prefix="loadtests-") as folder:
        result = Path(folder) / "result"
        arguments = [str(file.resolve()), str(result), *([] if name is None else [name])]
        try:
            ended = subprocess.run(
                python_module("loadtests.users.locustfile_check", *arguments),
                stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ValueError(f"{file}: its import has not ended after {TIMEOUT_S:g} s") from None
        problem = result.read_text("utf-8") if result.exists() else _early_end(ended)
    if problem != FINE:
        raise ValueError(f"{file}: {problem}")


def _early_end(ended: subprocess.CompletedProcess[bytes]) -> str:
    lines = ended.stderr.decode("utf-8", "replace").split("\n")
    last = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
    return f"its import ended Python with status {ended.returncode}{last}"


# In the other process


def main(argv: Sequence[str]) -> None:
    file, result, *names = argv
    problem = " ".join(_problem_of(file, *names).split())
    Path(result).write_text(problem or FINE, "utf-8", SHOWABLE)
    os._exit(0)  # threads and greenlets that the file has started may not end


def _problem_of(file: str, name: str | None = None) -> str:
    """The problem of a file in one sentence; "" if there is none."""
    from loadtests.locust_integration import compat

    before = dict(sys.modules)
    try:
        users, shapes = compat.load_locustfile(file)
    except BaseException as error:  # SystemExit as well
        return f"it cannot be imported: {_place(error, file)}{type(error).__name__}: {_text(error)}"
    module = next(each for key, each in sys.modules.items() if before.get(key) is not each and _file_of(each) == file)
    if shapes:
        return f"{type(shapes[0]).__name__} is a load shape, and a run has the shape of its profile: remove the class"
    from loadtests.users.tcp_user import TcpUser

    names = [each for each, user in users.items() if issubclass(user, TcpUser)]
    if not names:
        return "it has no subclass of loadtests.users.tcp_user.TcpUser"
    return (_problem_of_class(module, name, names) if name is not None else "") or _problem_of_options()


def _problem_of_class(module: ModuleType, name: str, names: Sequence[str]) -> str:
    """The problem of the class `name`; `names`: the classes of the file that can be used."""
    from locust import User

    from loadtests.users.tcp_user import TcpUser

    there = f"it has {', '.join(names)}"
    found = getattr(module, name, None)
    if found is None:
        return f"there is no class {name!r} in it (--user): {there}"
    if not isinstance(found, type) or not issubclass(found, User):
        return f"{name} in it (--user) is no subclass of TcpUser: {there}"
    if not issubclass(found, TcpUser):
        return f"{name} in it (--user) is no TcpUser, and exchanges of others are not recorded: {there}"
    if name not in names:
        return f"{name} in it (--user) is abstract: {there}"
    if not found.tasks:
        return f"{name} in it (--user) has no method with @task"
    return _problem_of_codec(found) if found.make_codec is TcpUser.make_codec else ""


def _problem_of_codec(user: Any) -> str:
    methods = ("receive", "messages", "encode", "eof")
    try:
        made = user.codec()
        missing = [each for each in methods if not callable(getattr(made, each, None))]
        problem = f"its codecs have no {missing[0]}()" if missing else ""
    except Exception as error:
        problem = f"{type(error).__name__}: {_text(error)}"
    return f"the codec of {user.__name__} is {user.codec!r}, which makes no codec: {problem}" if problem else ""


def _problem_of_options() -> str:
    """A file must not add a required option to Locust's command line, because a run does not pass it."""
    from loadtests.locust_integration import compat

    importlib.import_module("loadtests.locust_integration.load_shape")  # which adds options, too
    required = compat.required_options()
    return f"it adds {required[0]} to Locust's command line as required, and a run does not pass it" if required else ""


def _place(error: BaseException, file: str) -> str:
    """The place of an error: the last line of the file in its traceback, or the line with the syntax error."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: "
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {lines[-1]}: " if lines else ""


def _text(error: BaseException) -> str:
    return str(error.msg if isinstance(error, SyntaxError) else error)


def _file_of(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


if __name__ == "__main__":
    main(sys.argv[1:])
