"""How a worker loads the application: patched first or not at all, in its environment, from its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gserver.config.settings import Settings
from gserver.errors import ConfigError, FrameTooLarge
from gserver.service import Service
from gserver.worker.worker import Worker, apply_settings, check_handshake_settings, limit_messages
from tests.helpers.services import make_echo_lines

ROOT = Path(__file__).parents[3]

#: Loads an application with the given settings, and prints the result; load() patches and moves.
LOADER = """
import json, os, sys
from gserver.worker.app_loader import parse_application
from gserver.errors import ConfigError
from gserver.config.settings import Settings
from gserver.worker.worker import load

values, application, path = json.loads(sys.argv[1])
sys.path[:] = [*path, *(each for each in sys.path if each)]
settings = Settings.checked(values)
before = list(sys.path)
said = {}
try:
    served = load(settings, parse_application(application))
except ConfigError as error:
    said = {"refused": str(error)}
except BaseException as error:
    said = {"raised": type(error).__name__}
else:
    said = {"served": type(served).__name__}
import socket
said |= {
    "patched": socket.socket.__module__.startswith("gevent"),
    "folder": os.getcwd(),
    "added": [each for each in sys.path if each not in before],
    "times": sys.path.count(settings.chdir),
    "first": sys.path[0],
    "seen": getattr(sys.modules.get("app"), "SEEN", None),
    "environment": {name: os.environ[name] for name in os.environ if name.startswith("GSERVER_TEST")},
}
print(json.dumps(said))
"""

#: Writes down what there is at its import.
APP = """
import os, socket, sys
from gserver import Lines, Service
SEEN = {
    "folder": os.getcwd(),
    "value": os.environ.get("GSERVER_TEST"),
    "first": sys.path[0],
    "patched": socket.socket.__module__.startswith("gevent"),
}
app = Service(lambda line, conn: line, Lines)
def handle(socket, address): ...
"""


def load(
    folder: Path, application: str = "app:app", cwd: Path | None = None, path: tuple[str, ...] = (), **values: Any
) -> dict[str, Any]:
    """What load() did in a process of its own, with `folder` as the setting chdir.

    Unpatched, unless it is asked for: only one law is about that, and it takes as long as everything else together.
    """
    arguments = json.dumps([{"chdir": str(folder), "patch": False, **values}, application, path])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GSERVER_TEST")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, arguments],
        cwd=cwd or folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application, beside another one."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "app.py").write_text(APP)
    return tmp_path / "here"


@pytest.mark.parametrize("patch", [True, False])
def test_everything_is_patched_before_the_application_is_imported_or_never(folder: Path, patch: bool) -> None:
    said = load(folder, patch=patch)

    assert said["served"] == "Service"
    assert said["seen"]["patched"] is patch
    assert said["patched"] is patch


#: Counts the look-ups of installed distributions during patch_all(), and checks that a plugin is called.
PATCHER = """
import sys
from importlib import metadata

lookups = []
find, asked = metadata.distributions, metadata.entry_points
metadata.distributions = lambda **context: lookups.append(context) or find(**context)
sys.path.insert(0, sys.argv[1])
from gserver.worker.worker import patch_all
patch_all()
import plugin
print(len(lookups), sorted(plugin.heard), metadata.entry_points is asked)
"""


def test_what_is_installed_is_looked_up_once_and_gevents_plugins_are_called(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("heard = []\ndef hear(event): heard.append(type(event).__name__)\n")
    installed = tmp_path / "plugin-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    groups = [f"[gevent.plugins.monkey.{when}_patch_all]\nit = plugin:hear\n" for when in ("will", "did")]
    (installed / "entry_points.txt").write_text("".join(groups))
    done = subprocess.run(
        [sys.executable, "-c", PATCHER, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("1 ['GeventDidPatchAllEvent', 'GeventWillPatchAllEvent'] True\n", "")


def test_the_application_is_imported_from_its_folder(folder: Path) -> None:
    said = load(folder, cwd=folder.parent / "elsewhere")

    assert said["served"] == "Service"
    assert said["folder"] == said["seen"]["folder"] == str(folder)


def test_its_folder_comes_first_on_the_path(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "app.py").write_text("raise RuntimeError('the wrong one')")

    said = load(folder, path=(str(elsewhere),), cwd=elsewhere)

    assert said["served"] == "Service"
    assert said["first"] == said["seen"]["first"] == str(folder)
    assert said["added"] == [str(folder)]


def test_a_folder_that_is_on_the_path_is_not_added_again(folder: Path) -> None:
    said = load(folder, path=(str(folder),))

    assert said["added"] == []
    assert said["times"] == 1


def test_a_relative_folder_becomes_an_absolute_one(folder: Path) -> None:
    said = load(Path("here"), cwd=folder.parent)

    assert said["served"] == "Service"
    assert said["first"] == str(folder)


@pytest.mark.parametrize("name", ["with space", "ünï", "a:b", "-x"])
def test_the_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "app.py").write_text(APP)

    assert load(folder)["folder"] == str(folder)


@pytest.mark.parametrize(
    ("raw_env", "value"),
    [
        (["GSERVER_TEST=1"], "1"),
        (["GSERVER_TEST="], ""),
        (["GSERVER_TEST=a=b=c"], "a=b=c"),
        (["GSERVER_TEST= spaces "], " spaces "),
        (["GSERVER_TEST=1", "GSERVER_TEST=2"], "2"),
        (["GSERVER_TEST=ünï"], "ünï"),
        (["GSERVER_TEST=" + "x" * 10_000], "x" * 10_000),
        ("GSERVER_TEST=1", "1"),
        ([], None),
    ],
    ids=["one", "empty", "equals", "spaces", "twice", "unicode", "long", "text", "none"],
)
def test_the_application_sees_its_environment_when_it_is_imported(folder: Path, raw_env: Any, value: Any) -> None:
    assert load(folder, raw_env=raw_env)["seen"]["value"] == value


def test_all_variables_are_set(folder: Path) -> None:
    said = load(folder, raw_env=[f"GSERVER_TEST_{number}={number}" for number in range(100)])

    assert said["environment"] == {f"GSERVER_TEST_{number}": str(number) for number in range(100)}


def test_a_variable_may_decide_what_the_application_is(folder: Path) -> None:
    (folder / "app.py").write_text(APP + "import os\napp = {'bare': handle}[os.environ['GSERVER_TEST']]\n")

    assert load(folder, raw_env=["GSERVER_TEST=bare"])["served"] == "function"


@pytest.mark.parametrize(
    ("application", "served"),
    [("app:app", "Service"), ("app:handle", "function"), ("echo", "Service"), ("json", "JsonService")],
)
def test_whatever_can_be_served_is_loaded(folder: Path, application: str, served: str) -> None:
    assert load(folder, application)["served"] == served


@pytest.mark.parametrize("application", ["app:nothing", "nothing:app", "app:SEEN", "app:app(1)", "app:app.nothing"])
def test_what_cannot_be_served_is_refused_in_one_line(folder: Path, application: str) -> None:
    refused = load(folder, application)["refused"]

    assert application in refused
    assert "\n" not in refused


@pytest.mark.parametrize(
    ("source", "raised"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("import gevent\nraise gevent.Timeout(1)", "Timeout"),
    ],
    ids=["exception", "exit", "interrupt", "syntax", "import", "timeout"],
)
def test_what_the_application_raises_is_its_own(folder: Path, source: str, raised: str) -> None:
    (folder / "app.py").write_text(source)

    assert load(folder)["raised"] == raised


def test_a_folder_that_is_gone_by_now_is_an_error(folder: Path) -> None:
    """It was there when the settings were checked."""
    code = LOADER.replace("before =", "os.rmdir(settings.chdir)\nbefore =")
    arguments = json.dumps([{"chdir": str(folder.parent / "elsewhere")}, "echo", []])
    done = subprocess.run(
        [sys.executable, "-c", code, arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )

    says = f"cannot change to the directory '{folder.parent}/elsewhere': No such file or directory"
    assert json.loads(done.stdout)["refused"] == says


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"certfile": "x"}, "setting certfile is 'x', but "),
        ({"proxy_protocol": "v1"}, "setting proxy_protocol is 'v1', but "),
    ],
)
def test_a_bare_handler_has_no_handshake(values: dict[str, Any], says: str) -> None:
    def handle(sock: Any, address: Any) -> None: ...

    check_handshake_settings(handle, Settings.checked({}))
    check_handshake_settings(make_echo_lines(), Settings.checked(values))
    with pytest.raises(ConfigError, match=says):
        check_handshake_settings(handle, Settings.checked(values))


def test_the_handshake_of_each_listener_is_checked() -> None:
    def handle(sock: Any, address: Any) -> None: ...

    entries = {"127.0.0.1:1": {"app": "a:b"}, "127.0.0.1:2": {"app": "a:b", "certfile": "x"}}
    settings = Settings.checked({"listeners": entries, "proxy_protocol": "off"})
    apply_settings(handle, settings, settings.listeners[:1])
    with pytest.raises(ConfigError, match="setting certfile is 'x', but "):
        apply_settings(handle, settings, settings.listeners)


def test_the_codec_limits_messages_unless_a_setting_does() -> None:
    service = make_echo_lines()
    limit_messages(service, 10)
    codec = service.codec()
    codec.receive(b"x" * 11 + b"\n")

    with pytest.raises(FrameTooLarge, match="line of 11 bytes, the limit is 10"):
        list(codec.messages())


@pytest.mark.parametrize("served", [Service(lambda data, conn: data), lambda sock, address: None])
def test_what_has_no_maximum_cannot_be_limited(served: Any) -> None:
    with pytest.raises(ConfigError, match="setting max_message_size cannot be used: "):
        limit_messages(served, 10)


def test_an_address_that_only_a_later_reload_knows_is_not_served() -> None:
    worker = Worker.__new__(Worker)
    worker.settings = Settings.checked({"listeners": {"127.0.0.1:1": {"app": "echo", "name": "x"}}})

    assert [worker._listener_at(address) for address in ("127.0.0.1:1", "127.0.0.1:2")] == [
        worker.settings.listeners[0],
        None,
    ]


def test_without_listeners_every_address_is_served_by_the_one_application() -> None:
    worker = Worker.__new__(Worker)
    worker.settings = Settings.checked({"bind": "127.0.0.1:1"})
    found = worker._listener_at("unix:/run/later")

    assert found is not None
    assert (found.name, found.app) == ("unix:/run/later", None)
