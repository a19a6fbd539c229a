"""Where the logs go, and how they are opened again."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver import logs
from gserver.connection import Connection
from gserver.errors import CloseReason, ConfigError
from gserver.framing import Raw
from gserver.settings import ACCESS_LOG_FORMAT, Settings


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    """The loggers as they were, afterwards."""
    loggers = [logging.getLogger(name) for name in ("gserver", "gserver.access", "gserver.worker")]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    yield
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            handler.close()
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


def test_the_access_log_is_silent_unless_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(errorlog=str(tmp_path / "errors"))
    logging.getLogger("gserver.access").info("a line")

    assert capsys.readouterr().out == ""
    assert (tmp_path / "errors").read_text() == ""

    configure(accesslog=str(tmp_path / "access"))
    logging.getLogger("gserver.access").info("a line")

    assert (tmp_path / "access").read_text() == "a line\n"


def test_files_that_were_moved_away_are_opened_again(tmp_path: Path) -> None:
    settings = configure(errorlog=str(tmp_path / "errors"), accesslog=str(tmp_path / "access"))
    for name in ("errors", "access"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    logs.reopen(settings)
    logging.getLogger("gserver").error("new")
    logging.getLogger("gserver.access").info("new")

    assert "new" in (tmp_path / "errors").read_text()
    assert (tmp_path / "access").read_text() == "new\n"
    assert "new" not in (tmp_path / "errors.1").read_text()


def test_standard_output_can_go_where_the_errors_go(tmp_path: Path) -> None:
    program = (
        "import sys; from gserver import logs; from gserver.settings import Settings\n"
        "logs.configure(Settings.checked({'errorlog': sys.argv[1]})); logs.capture_output()\n"
        "print('printed'); print('complained', file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "errors")], capture_output=True, timeout=30, check=True
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


def test_a_wrong_dictionary_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"^setting logconfig_dict cannot be used: "):
        configure(logconfig_dict={"handlers": {"x": {"class": "no.such.Handler"}}})


def test_a_line_of_the_access_log_has_what_the_format_asks_for() -> None:
    line = logs.access_line(ACCESS_LOG_FORMAT, make_connection(), CloseReason.PEER_EOF)

    assert re.fullmatch(r'127\.0\.0\.1:5 \[\d\d/\w{3}/\d{4}:[\d:]+ [+-]\d{4}\] "peer_eof" 2 30 40 \d+\.\d{6}', line)


def test_atoms_that_do_not_exist_are_a_dash() -> None:
    line = logs.access_line("%(p)s %(nothing)s 100%%", make_connection(), CloseReason.DRAINED)

    assert line == f"{os.getpid()} - 100%"
