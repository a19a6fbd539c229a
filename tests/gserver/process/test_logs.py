"""The configuration of the logs, and how they are reopened."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.codecs import Raw
from gserver.config.settings import ACCESS_LOG_FORMAT, Settings
from gserver.config.validators import access_format
from gserver.connection.connection import Connection
from gserver.errors import CloseReason, ConfigError
from gserver.process import logs
from gserver.process.log_handler import LogHandler


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    """Restore the loggers after the test."""
    loggers = [logging.getLogger(name) for name in ("gserver", "gserver.access", "gserver.worker")]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    yield
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            handler.retire() if isinstance(handler, LogHandler) else handler.close()
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
        logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


def configure(**values: object) -> Settings:
    settings = Settings.checked(values)
    logs.configure(settings)
    return settings


def make_connection() -> Connection:
    class Sock:
        pass

    conn = Connection(Sock(), ("127.0.0.1", 5), Raw(), Sock())  # type: ignore[arg-type]
    conn.messages, conn.received_bytes, conn.sent_bytes = 2, 30, 40
    return conn


def test_the_error_log_is_a_line_for_each_event(tmp_path: Path) -> None:
    configure(errorlog=str(tmp_path / "errors"), loglevel="warning")
    logging.getLogger("gserver.worker").info("too fine")
    logging.getLogger("gserver.worker").warning("heard %d", 1)

    line = (tmp_path / "errors").read_text()
    assert re.fullmatch(rf"\[\d{{4}}-\d\d-\d\d .+\] \[{os.getpid()}\] \[WARNING\] heard 1\n", line)


def test_the_access_log_is_off_by_default(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configure(errorlog=str(tmp_path / "errors"))
    logging.getLogger("gserver.access").info("a line")

    assert capfd.readouterr().out == ""
    assert (tmp_path / "errors").read_text() == ""

    configure(accesslog=str(tmp_path / "access"))
    logging.getLogger("gserver.access").info("a line")

    assert (tmp_path / "access").read_text() == "a line\n"


def test_files_that_were_moved_away_are_opened_again(tmp_path: Path) -> None:
    configure(errorlog=str(tmp_path / "errors"), accesslog=str(tmp_path / "access"))
    for name in ("errors", "access"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    logs.reopen()
    logging.getLogger("gserver").error("new")
    logging.getLogger("gserver.access").info("new")

    assert "new" in (tmp_path / "errors").read_text()
    assert (tmp_path / "access").read_text() == "new\n"
    assert "new" not in (tmp_path / "errors.1").read_text()


def test_standard_output_can_be_redirected_to_the_error_log(tmp_path: Path) -> None:
    program = (
        "import sys; from gserver.process import logs; from gserver.config.settings import Settings\n"
        "logs.configure(Settings.checked({'errorlog': sys.argv[1], 'capture_output': True}))\n"
        "print('printed'); print('complained', file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "errors")], capture_output=True, timeout=60, check=True
    )

    assert (ended.stdout, ended.stderr) == (b"", b"")
    assert set((tmp_path / "errors").read_text().split()) == {"printed", "complained"}


@pytest.mark.parametrize("name", ["errorlog", "accesslog"])
def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "nowhere" / "log"

    with pytest.raises(ConfigError, match=f"^cannot log to '{path}': No such file or directory$"):
        configure(**{name: str(path)})


def test_a_dictionary_configures_the_rest(tmp_path: Path) -> None:
    configure(errorlog=str(tmp_path / "errors"), logconfig_dict={"loggers": {"gserver.worker": {"level": "ERROR"}}})
    logging.getLogger("gserver.worker").warning("too fine")
    logging.getLogger("gserver.arbiter").warning("kept")

    assert "too fine" not in (tmp_path / "errors").read_text()
    assert "kept" in (tmp_path / "errors").read_text()
    logging.getLogger("gserver.worker").setLevel(logging.NOTSET)


BAD_DICTIONARIES: list[dict[str, object]] = [
    {"handlers": {"x": {"class": "no.such.Handler"}}},
    {"handlers": {"x": {"class": "logging.FileHandler", "filename": "/nowhere/at/all"}}},
    {"handlers": {"x": {}}},
    {"handlers": 3},
    {"loggers": {"gserver.worker": {"level": "LOUD"}}},
    {"loggers": {"gserver.worker": {"handlers": ["nobody"]}}},
    {"loggers": ["gserver"]},
    {"filters": {"x": {"()": "no.such.Filter"}}},
    {"formatters": {"x": 3}},
    {"version": 2},
    {"version": "one"},
]


@pytest.mark.parametrize("dictionary", BAD_DICTIONARIES, ids=str)
def test_a_wrong_dictionary_is_a_clear_error(dictionary: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"^setting logconfig_dict cannot be used: ."):
        configure(logconfig_dict=dictionary)


def test_a_line_of_the_access_log_has_the_values_of_the_format() -> None:
    line = logs.access_line(ACCESS_LOG_FORMAT, make_connection(), CloseReason.PEER_EOF)

    assert re.fullmatch(r'127\.0\.0\.1:5 \[\d\d/\w{3}/\d{4}:[\d:]+ [+-]\d{4}\] "peer_eof" 2 30 40 \d+\.\d{6}', line)


def test_atoms_that_do_not_exist_are_a_dash() -> None:
    line = logs.access_line("%(p)s %(nothing)s 100%%", make_connection(), CloseReason.DRAINED)

    assert line == f"{os.getpid()} - 100%"


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        ("h", r"127\.0\.0\.1:5"),
        ("t", r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"),
        ("r", "peer_eof"),
        ("M", "2"),
        ("I", "30"),
        ("O", "40"),
        ("L", r"\d+\.\d{6}"),
        pytest.param("p", str(os.getpid()), id="p"),  # an id that is the same in every process
        ("", "-"),
        ("nothing", "-"),
        ("__class__", "-"),
    ],
)
def test_every_atom_is_filled_in(atom: str, expected: str) -> None:
    assert re.fullmatch(expected, logs.access_line(f"%({atom})s", make_connection(), CloseReason.PEER_EOF))


@pytest.mark.parametrize("reason", CloseReason)
def test_every_reason_has_its_name_in_the_access_log(reason: CloseReason) -> None:
    assert logs.access_line("%(r)s", make_connection(), reason) == reason.value


@pytest.mark.parametrize("form", ["%(M)5d|%(O)-4s|%(p)d", "%(I)03d %(r).4s %(h)r %(nothing)5s"])
def test_every_format_that_is_accepted_can_be_formatted(form: str) -> None:
    assert "%" not in logs.access_line(access_format(form), make_connection(), CloseReason.DRAINED)


FORGERIES = [
    "/tmp/a\nforged",
    b"\0a\nforged",
    "/tmp/a\rforged",
    '/a","reason":"forged',
    "/a\\",
    '/a" [1] "forged" 0 0 0 0',
]
FORGERIES += ["/a\u2028\x85\x0b", b"/\xff\xfe", "/\ud800"]


@pytest.mark.parametrize("path", FORGERIES, ids=ascii)
def test_a_client_cannot_write_fields_of_its_own_by_the_path_it_is_bound_to(path: str | bytes) -> None:
    conn = make_connection()
    conn.peer = path
    form = '{"peer":"%(h)s","reason":"%(r)s","messages":%(M)s}'
    fields = json.loads(logs.access_line(form, conn, CloseReason.PEER_EOF), object_pairs_hook=list)
    line = logs.access_line(ACCESS_LOG_FORMAT, conn, CloseReason.PEER_EOF)

    assert fields == [("peer", "unix:" + os.fsdecode(path)), ("reason", "peer_eof"), ("messages", 2)]
    assert re.fullmatch(r'unix:\S+ \[\d\d/\w{3}/\d{4}:[\d:]+ [+-]\d{4}\] "peer_eof" 2 30 40 \d+\.\d{6}', line)


@pytest.mark.parametrize("path", FORGERIES, ids=ascii)
def test_a_client_cannot_write_lines_of_its_own_by_the_path_it_is_bound_to(path: str | bytes) -> None:
    conn = make_connection()
    conn.peer = path

    assert len(logs.access_line("%(h)s", conn, CloseReason.PEER_EOF).splitlines()) == 1


@pytest.mark.parametrize("name", ["errorlog", "accesslog"])
def test_a_file_that_cannot_be_opened_leaves_the_logs_as_they_were(tmp_path: Path, name: str) -> None:
    before = {"errorlog": str(tmp_path / "errors"), "accesslog": str(tmp_path / "access")}
    configure(**before)
    with pytest.raises(ConfigError):
        configure(**{**before, name: str(tmp_path / "nowhere" / "log")})
    logging.getLogger("gserver").error("still heard")
    logging.getLogger("gserver.access").info("still heard")

    assert "still heard" in (tmp_path / "errors").read_text()
    assert "still heard" in (tmp_path / "access").read_text()


def test_configuring_again_closes_the_files_from_before(tmp_path: Path) -> None:
    configure(errorlog=str(tmp_path / "first"), accesslog=str(tmp_path / "first"))
    configure(errorlog=str(tmp_path / "second"))
    logging.getLogger("gserver").error("heard")

    assert (tmp_path / "first").read_text() == ""
    open_files = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    assert str(tmp_path / "first") not in open_files
    assert str(tmp_path / "second") in open_files


def test_a_log_that_cannot_be_opened_again_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    configure(errorlog=str(folder / "errors"))
    folder.rename(tmp_path / "moved")
    logs.reopen()
    logging.getLogger("gserver").error("still heard")

    first, second = (tmp_path / "moved" / "errors").read_text().splitlines()
    assert first.endswith(
        f"Cannot open the log '{folder}/errors' again, logging continues in the old file: No such file or directory"
    )
    assert second.endswith("still heard")


def test_reopening_a_file_that_was_not_moved_appends_to_it(tmp_path: Path) -> None:
    configure(accesslog=str(tmp_path / "access"))
    for number in range(3):
        logging.getLogger("gserver.access").info("%d", number)
        logs.reopen()

    assert (tmp_path / "access").read_text() == "0\n1\n2\n"


def test_opening_again_without_files_is_no_trouble(capfd: pytest.CaptureFixture[str]) -> None:
    configure(accesslog="-")
    logs.reopen()
    logging.getLogger("gserver").error("wrong")
    logging.getLogger("gserver.access").info("a line")

    written = capfd.readouterr()
    assert written.out == "a line\n"
    assert written.err.endswith("[ERROR] wrong\n")


def test_captured_output_follows_a_file_that_was_moved(tmp_path: Path) -> None:
    program = (
        "import os, sys; from gserver.process import logs; from gserver.config.settings import Settings\n"
        "settings = Settings.checked({'errorlog': sys.argv[1], 'capture_output': True})\n"
        "logs.configure(settings); print('old', flush=True)\n"
        "os.rename(sys.argv[1], sys.argv[1] + '.1'); logs.reopen(); print('new')\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "errors")], timeout=60, check=True)

    assert (tmp_path / "errors.1").read_text() == "old\n"
    assert (tmp_path / "errors").read_text() == "new\n"


def test_loggers_of_other_packages_are_left_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    configure(errorlog=str(tmp_path / "errors"), logconfig_dict={"loggers": {}})
    logging.getLogger("another.package").error("not ours")

    assert (root.handlers, root.level) == before
    assert (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_the_level_is_the_least_that_is_written(tmp_path: Path, level: str) -> None:
    configure(errorlog=str(tmp_path / "errors"), loglevel=level)
    for each in ("debug", "info", "warning", "error", "critical"):
        logging.getLogger("gserver.worker").log(getattr(logging, each.upper()), each)

    first = (tmp_path / "errors").read_text().splitlines()[0]
    assert first.endswith(f"[{level.upper()}] {level}")
