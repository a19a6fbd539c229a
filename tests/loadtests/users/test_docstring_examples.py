"""The example in the docstring of TcpUser is a Locust file that a run accepts."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

from loadtests.users.locustfile_check import check_users

MODULE = Path(__file__).parents[3] / "loadtests/users/tcp_user.py"


def test_the_example_of_tcp_user_can_be_run(tmp_path: Path) -> None:
    # Not imported: Locust patches the standard library.
    (user,) = [each for each in ast.parse(MODULE.read_text()).body if getattr(each, "name", "") == "TcpUser"]
    assert isinstance(user, ast.ClassDef)
    _, _, example = (ast.get_docstring(user) or "").partition("Example:\n")
    file = tmp_path / "users.py"
    file.write_text(textwrap.dedent(example))

    check_users(file, "Device")
