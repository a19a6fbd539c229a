"""Reload requests and their results; a child process stands in for the arbiter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gserver.arbiter.reload_requests import FULL, LIVE, ReloadFailedError, ReloadRequests, request_reload
from gserver.errors import ConfigError

STAND_IN = """
import signal, sys
from gserver.arbiter.reload_requests import ReloadRequests
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
print("ready", flush=True)
signal.sigwait([signal.SIGHUP])
requests = ReloadRequests()
requests.collect(sys.argv[1])
{reply}
"""


@contextmanager
def stand_in(pidfile: Path, reply: str) -> Iterator[None]:
    command = [sys.executable, "-c", STAND_IN.format(reply=reply), str(pidfile)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pidfile.write_text(str(process.pid))
        yield
        process.wait(60)


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "gserver.pid"


def reason_for_failure(pidfile: str) -> str:
    """Request a reload that fails; return the reason."""
    with pytest.raises(ReloadFailedError) as caught:
        request_reload(pidfile)
    return str(caught.value)


@pytest.mark.parametrize("how", [FULL, LIVE])
def test_success_is_reported_with_the_way_and_nothing_is_left(pidfile: Path, how: str) -> None:
    with stand_in(pidfile, f"requests.reply(None, {how!r})"):
        assert request_reload(str(pidfile)) == how

    assert list(pidfile.parent.iterdir()) == [pidfile]


def test_a_failure_is_reported_with_its_reason(pidfile: Path) -> None:
    with stand_in(pidfile, "requests.reply('it was: bad\\nluck')"):
        assert reason_for_failure(str(pidfile)) == "it was: bad\nluck"


def test_an_arbiter_that_ends_without_a_reply_is_noticed(pidfile: Path) -> None:
    with stand_in(pidfile, "sys.exit()"):
        assert reason_for_failure(str(pidfile)) == "the server has ended"


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    with stand_in(folder / "gserver.pid", "requests.reply('heard')"):
        assert reason_for_failure(str(folder / "gserver.pid")) == "heard"


@pytest.mark.parametrize("text", [None, "", "garbage", "0", "-1", str(2**31), str(2**63)])
def test_a_pid_file_without_an_id_is_a_clear_error(pidfile: Path, text: str | None) -> None:
    if text is not None:
        pidfile.write_text(text)

    with pytest.raises(ConfigError, match=r"^there is no process id in "):
        request_reload(str(pidfile))


def test_a_process_that_is_gone_is_a_clear_error_and_leaves_nothing(pidfile: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pidfile.write_bytes(gone.stdout)

    with pytest.raises(ConfigError, match=f"^there is no process {int(gone.stdout)}$"):
        request_reload(str(pidfile))
    assert list(pidfile.parent.iterdir()) == [pidfile]


def test_the_socket_of_a_killed_command_is_removed(pidfile: Path) -> None:
    program = "import sys, os; from gserver.arbiter.reload_requests import request_reload; request_reload(sys.argv[1])"
    pidfile.write_text(str(os.getpid()))
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    command = subprocess.Popen([sys.executable, "-c", program, str(pidfile)])
    try:
        signal.sigtimedwait([], 0)
        while len(list(pidfile.parent.iterdir())) < 2:
            assert command.poll() is None
    finally:
        command.kill()
        command.wait()
        signal.signal(signal.SIGHUP, before)
    requests = ReloadRequests()
    requests.collect(str(pidfile))
    requests.reply(None)

    assert list(pidfile.parent.iterdir()) == [pidfile]


def test_requests_for_an_abandoned_reload_get_the_result_of_the_next(pidfile: Path) -> None:
    with stand_in(pidfile, "requests.collect(sys.argv[1]); requests.reply('second')"):
        assert reason_for_failure(str(pidfile)) == "second"


@contextmanager
def waiting_socket_at(path: Path) -> Iterator[socket.socket]:
    """A socket that waits for a result at this path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waiting:
        waiting.bind(str(path))
        waiting.setblocking(False)
        yield waiting


def reply_to_all(pidfile: Path, failure: str | None = None) -> None:
    requests = ReloadRequests()
    requests.collect(str(pidfile))
    requests.reply(failure)


def test_a_command_of_an_earlier_version_reads_the_word_that_it_knows(pidfile: Path) -> None:
    earlier, today = Path(f"{pidfile}.123.asks"), Path(f"{pidfile}.0123.asks")
    for how in (FULL, LIVE):
        with waiting_socket_at(earlier) as one, waiting_socket_at(today) as other:
            requests = ReloadRequests()
            requests.collect(str(pidfile))
            requests.reply(None, how)

            assert one.recv(200) == b"done"
            assert other.recv(200) == b"done " + how.encode()
        earlier.unlink()
        today.unlink()


# What the server did before it could state how it had reloaded.
EARLIER_SERVER = """
import glob, socket
[path] = glob.glob(sys.argv[1] + ".*.asks")
assert path.removeprefix(sys.argv[1] + ".").removesuffix(".asks").isdecimal()
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto({reply}, path)
"""


def test_a_server_of_an_earlier_version_is_understood(pidfile: Path) -> None:
    with stand_in(pidfile, EARLIER_SERVER.format(reply=b"done")):
        assert request_reload(str(pidfile)) == ""
    with stand_in(pidfile, EARLIER_SERVER.format(reply=b"failed: no app")):
        assert reason_for_failure(str(pidfile)) == "no app"


def test_each_request_gets_one_reply(pidfile: Path) -> None:
    requests = ReloadRequests()
    with waiting_socket_at(Path(f"{pidfile}.1.asks")) as one, waiting_socket_at(Path(f"{pidfile}.2.asks")) as other:
        requests.collect(str(pidfile))
        requests.collect(str(pidfile))
        requests.reply(None)
        requests.reply(None)

        for waiting in (one, other):
            assert waiting.recv(100) == b"done"
            with pytest.raises(BlockingIOError):
                waiting.recv(100)


def test_who_asks_the_arbiter_of_another_pid_file_is_not_told(pidfile: Path) -> None:
    with waiting_socket_at(Path(f"{pidfile}.2.77.asks")) as waiting:
        reply_to_all(pidfile)

        with pytest.raises(BlockingIOError):
            waiting.recv(100)


def test_a_request_during_a_reload_gets_the_result_of_the_next(pidfile: Path) -> None:
    requests = ReloadRequests()
    requests.collect(str(pidfile))
    with waiting_socket_at(Path(f"{pidfile}.1.asks")) as waiting:
        requests.reply("not yours")
        requests.collect(str(pidfile))
        requests.reply(None)

        assert waiting.recv(100) == b"done"


def test_a_folder_whose_name_is_a_pattern_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / "[ab]*?"
    folder.mkdir()
    with stand_in(folder / "gserver.pid", "requests.reply('heard')"):
        assert reason_for_failure(str(folder / "gserver.pid")) == "heard"


def test_a_pid_file_is_found_from_the_folder_one_is_in(pidfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pidfile.parent)
    with stand_in(pidfile, "requests.reply(None)"):
        assert request_reload(pidfile.name) == FULL


def test_a_file_that_is_no_socket_stays(pidfile: Path) -> None:
    path = Path(f"{pidfile}.1.asks")
    path.write_text("keep me")
    reply_to_all(pidfile)

    assert path.read_text() == "keep me"


@pytest.mark.parametrize("reason", ["\N{GREEK SMALL LETTER BETA}" * 4000, "x" * 4000 + "\N{SNOWMAN}" * 100, "done", ""])
def test_every_reason_is_sent_as_far_as_it_fits(pidfile: Path, reason: str) -> None:
    with stand_in(pidfile, f"requests.reply({reason!a})"):
        heard = reason_for_failure(str(pidfile))

    assert reason.startswith(heard)
    assert len(heard) >= min(len(reason), 2000)


def test_a_reason_that_is_no_text_does_not_end_the_arbiter(pidfile: Path) -> None:
    with waiting_socket_at(Path(f"{pidfile}.1.asks")) as waiting:
        reply_to_all(pidfile, "no file '\udcff'")

        assert waiting.recv(100).startswith(b"failed: no file")


def test_an_asker_that_does_not_read_never_holds_up_the_arbiter(pidfile: Path) -> None:
    with waiting_socket_at(Path(f"{pidfile}.1.asks")) as waiting:
        for _ in range(2000):
            reply_to_all(pidfile)

        assert waiting.recv(100) == b"done"


def test_without_a_pid_file_nobody_can_ask() -> None:
    requests = ReloadRequests()
    requests.collect(None)
    requests.reply(None)
