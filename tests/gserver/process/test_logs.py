"""The configuration of the logs, and how they are reopened."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.codecs import Raw
from gserver.config.settings import Settings
from gserver.connection.connection import Connection
from gserver.errors import CloseReason, ConfigError
from gserver.process import logs
from gserver.process.access_records import access_record
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


def test_both_logs_can_be_json(tmp_path: Path) -> None:
    configure(errorlog=str(tmp_path / "errors"), accesslog=str(tmp_path / "access"), log_format="json")
    logging.getLogger("gserver.worker").warning("heard\n%d", 1, extra={"connection": "1-2"})
    logging.getLogger("gserver.worker").warning("heard %d", "broken")
    logging.getLogger("gserver.access").info("a line")

    first, second = map(json.loads, (tmp_path / "errors").read_text().splitlines())
    assert (first["level"], first["message"], first["connection"]) == ("WARNING", "heard\n1", "1-2")
    assert second["message"].startswith("gserver.worker logged a message that cannot be formatted: 'heard %d'")
    assert json.loads((tmp_path / "access").read_text())["message"] == "a line"


def test_a_reload_changes_the_format(tmp_path: Path) -> None:
    for form in ("text", "json", "text"):
        configure(errorlog=str(tmp_path / "errors"), log_format=form)
        logging.getLogger("gserver").error("heard")

    assert [line[0] for line in (tmp_path / "errors").read_text().splitlines()] == ["[", "{", "["]


def test_the_report_of_lost_lines_is_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(errorlog=str(tmp_path / "errors"), accesslog="/dev/full", log_format="json")
    logging.getLogger("gserver.access").info("a line")

    event = json.loads((tmp_path / "errors").read_text())
    assert event["message"] == "The access log '/dev/full' lost lines: 1 (No space left on device)"


def test_a_dictionary_can_format_the_fields_of_the_access_log(tmp_path: Path) -> None:
    form = "%(id)s %(reason)s %(messages)d %(duration_s).1f %(listener)s"
    handler = {"class": "logging.FileHandler", "filename": str(tmp_path / "own"), "formatter": "own"}
    configure(
        accesslog=str(tmp_path / "access"),
        logconfig_dict={
            "formatters": {"own": {"format": form}},
            "handlers": {"own": handler},
            "loggers": {"gserver.access": {"handlers": ["own"]}},
        },
    )
    logger = logging.getLogger("gserver.access")
    conn = Connection(object(), ("127.0.0.1", 5), Raw(), object())  # type: ignore[arg-type]
    logger.handle(access_record(logger, "%(h)s", conn, CloseReason.PEER_EOF, "127.0.0.1:3000"))

    assert (tmp_path / "own").read_text() == f"{conn.id} peer_eof 0 0.0 127.0.0.1:3000\n"


# The journal

JOURNAL_PROGRAM = """
import logging, os, sys
from gserver.codecs import Raw
from gserver.connection.connection import Connection
from gserver.config.settings import Settings
from gserver.process import logs
from gserver.process.access_records import access_record

if sys.argv[1] != "elsewhere":
    found = os.fstat({"error": 2, "output": 1}[sys.argv[1]])
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
else:
    os.environ["JOURNAL_STREAM"] = "1:2"
logs.configure(Settings.checked({"accesslog": "-", "log_format": sys.argv[2], "loglevel": "debug"}))
try:
    raise ValueError("two\\nlines")
except ValueError:
    logging.getLogger("gserver.worker").exception("failed")
logging.getLogger("gserver").debug("detail")
logging.getLogger("gserver.access").info("access")
"""


def run_in_journal(which: str, form: str, kind: str) -> tuple[list[str], list[str]]:
    """Run a program with streams of a kind, and JOURNAL_STREAM for one; return the lines of both."""
    pairs = [socket.socketpair() if kind == "socket" else os.pipe() for _ in range(2)]
    ours, theirs = zip(*((_fileno(end[0]), _fileno(end[1])) for end in pairs), strict=True)
    subprocess.run(
        [sys.executable, "-c", JOURNAL_PROGRAM, which, form], stdout=theirs[0], stderr=theirs[1], timeout=60, check=True
    )
    for descriptor in theirs:
        io.FileIO(descriptor, "w").close()  # in a patched process, os.close() returns before it is closed
    texts = []
    for descriptor in ours:
        with open(descriptor) as stream:
            texts.append(stream.read())
    return texts[0].splitlines(), texts[1].splitlines()


def _fileno(end: socket.socket | int) -> int:
    return end if isinstance(end, int) else end.detach()


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_lines_for_the_journal_have_their_priority_and_no_time(kind: str) -> None:
    output, errors = run_in_journal("error", "text", kind)

    assert errors[:2] == ["<3>[ERROR] failed", "<3>Traceback (most recent call last):"]
    assert errors[-3:] == ["<3>ValueError: two", "<3>lines", "<7>[DEBUG] detail"]
    assert all(line.startswith("<3>") for line in errors[:-1])
    assert output == ["access"]


def test_json_lines_for_the_journal_have_their_priority() -> None:
    _, errors = run_in_journal("error", "json", "socket")

    assert [line[:3] for line in errors] == ["<3>", "<7>"]
    assert json.loads(errors[0][3:])["exception"].endswith("ValueError: two\nlines")


def test_the_access_log_for_the_journal_has_its_priority_only_on_its_own_stream() -> None:
    output, errors = run_in_journal("output", "text", "socket")

    assert output == ["<6>access"]
    assert re.fullmatch(r"\[.+\] \[\d+\] \[ERROR\] failed", errors[0])


def test_a_journal_of_another_stream_changes_nothing() -> None:
    output, errors = run_in_journal("elsewhere", "text", "socket")

    assert output == ["access"]
    assert re.fullmatch(r"\[.+\] \[\d+\] \[ERROR\] failed", errors[0])


def test_a_log_in_a_file_is_not_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    configure(errorlog=str(tmp_path / "errors"))
    logging.getLogger("gserver").error("heard")

    assert (tmp_path / "errors").read_text().startswith("[2")


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
