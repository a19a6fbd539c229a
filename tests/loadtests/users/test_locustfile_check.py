"""A user's Locust file is checked before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.cli import main
from loadtests.users import locustfile_check
from loadtests.users.locustfile_check import check_users

USERS = """
from locust import User, task
from gserver import Lines
from loadtests.users import TcpUser
print("printed while it is imported")
class Mine(TcpUser):
    codec = Lines
    @task
    def ask(self): self.exchange("ask", b"x")
class Idle(TcpUser):
    pass
class Named(Mine):
    codec = "lines"
class Abstract(Mine):
    abstract = True
class Plain(User):
    ask = Mine.ask
class Own(Mine):
    codec = None
    def make_codec(self): return Lines()
helper = 7
"""
SHAPE = "from locust import LoadTestShape\nclass Waves(LoadTestShape):\n    def tick(self): return None\n"
ARGUMENT = """
from locust import events
@events.init_command_line_parser.add_listener
def add(parser): parser.add_argument("--tenant", required=True)
"""


def problem_of(file: Path, text: str, name: str | None) -> str:
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.py|mine\.txt|a,b\.py") as caught:
        check_users(file, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["Mine", "Own", None])
def test_a_file_without_problems_is_accepted(tmp_path: Path, name: str | None) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USERS)

    check_users(file, name)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("Nope", USERS, "there is no class 'Nope' in it (--user): it has Mine, Idle, Named, Own"),
        ("helper", USERS, "helper in it (--user) is no subclass of TcpUser: it has Mine"),
        ("Plain", USERS, "Plain in it (--user) is no TcpUser, and exchanges of others are not recorded: it has Mine"),
        ("Abstract", USERS, "Abstract in it (--user) is abstract: it has Mine"),
        ("Idle", USERS, "Idle in it (--user) has no method with @task"),
        ("Named", USERS, "the codec of Named is 'lines', which makes no codec: TypeError"),
        ("Mine", USERS + SHAPE, "Waves is a load shape, and a run has the shape of its profile"),
        ("Mine", USERS + ARGUMENT, "it adds --tenant to Locust's command line as required"),
        (None, "", "it has no subclass of loadtests.users.tcp_user.TcpUser"),
        ("Mine", "class Mine(:", "it cannot be imported: {file}, line 1: SyntaxError: "),
        ("Mine", "import os\nimport nowhere_at_all", "it cannot be imported: line 2: ModuleNotFoundError: No module"),
        ("Mine", "def f():\n    return 1 / 0\nf()", "it cannot be imported: line 2: ZeroDivisionError: division by"),
        ("Mine", "raise SystemExit(3)", "it cannot be imported: line 1: SystemExit: 3"),
        ("Mine", "import os, sys\nsys.stderr.write('bye')\nsys.stderr.flush()\nos._exit(7)", "with status 7: bye"),
    ],
)
def test_a_problem_is_one_line_with_its_place(tmp_path: Path, name: str | None, text: str, says: str) -> None:
    file = tmp_path / "mine.py"

    problem = problem_of(file, text, name)
    assert problem.startswith(f"{file}: ")
    assert says.format(file=file) in problem


def test_an_import_that_does_not_end_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locustfile_check, "TIMEOUT_S", 0.2)

    assert "has not ended after 0.2 s" in problem_of(tmp_path / "mine.py", "import time; time.sleep(60)", "Mine")


@pytest.mark.parametrize(("name", "says"), [("mine.txt", "must be a Python file"), ("a,b.py", "without a comma")])
def test_a_name_that_locust_does_not_load_is_refused(tmp_path: Path, name: str, says: str) -> None:
    assert says in problem_of(tmp_path / name, USERS, "Mine")


@pytest.mark.parametrize(
    "words",
    [
        ["run", "smoke", "--user", "Nope"],
        ["ab", "gserver:json", "--aa", "--user", "Nope"],
        ["worker", "--master", "127.0.0.1:9"],
    ],
)
def test_no_command_starts_anything_with_a_file_that_cannot_be_used(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("class Nope: pass")

    assert main([*words, "--file", "mine.py"]) == 2
    assert capsys.readouterr().err == "loadtests: mine.py: it has no subclass of loadtests.users.tcp_user.TcpUser\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
