"""The time over which connections are closed: by their number, with a maximum, or as set."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.arbiter.worker_timeouts import KILL_GRACE_S, policy_of
from gserver.config.settings import Settings
from gserver.errors import ConfigError
from gserver.limits.drain_spread import AUTO, LONGEST_S, PER_SECOND, longest_spread_s, spread_s
from tests.helpers.processes import GserverProcess

# The time that Docker waits between TERM and KILL.
DOCKER_S = 10.0


@pytest.mark.parametrize(("connections", "seconds"), [(0, 0.0), (1, 0.004), (100, 0.4), (1000, 4.0), (2000, 5.0)])
def test_by_default_it_depends_on_the_number_of_connections(connections: int, seconds: float) -> None:
    assert spread_s(AUTO, connections) == pytest.approx(seconds)


@given(st.integers(0, 10**6))
def test_it_is_never_longer_than_the_arbiter_expects(connections: int) -> None:
    assert 0 <= spread_s(AUTO, connections) <= longest_spread_s(AUTO)


@given(st.integers(0, 10**6), st.floats(0, 1000))
def test_a_number_of_seconds_is_used_as_it_is(connections: int, seconds: float) -> None:
    assert spread_s(seconds, connections) == longest_spread_s(seconds) == seconds


def test_no_more_than_some_hundred_connections_a_second_are_closed_while_the_bound_allows_it() -> None:
    assert all(n / spread_s(AUTO, n) <= PER_SECOND + 0.001 for n in range(1, int(LONGEST_S * PER_SECOND) + 1))
    assert 2000 / spread_s(AUTO, 2000) <= 400


def test_a_stop_of_idle_connections_ends_before_docker_kills() -> None:
    assert longest_spread_s(AUTO) + 2 + 1 < DOCKER_S


def test_a_reload_waits_for_workers_that_drain_by_the_settings_from_before() -> None:
    slow, quick = (Settings.checked({"drain_spread": spread, "graceful_timeout": 60}) for spread in (50, 0))

    assert policy_of(quick, slow).drain_limit_s == policy_of(slow, quick).drain_limit_s == 50 + 60 + KILL_GRACE_S
    assert policy_of(quick, quick).drain_limit_s == 60 + KILL_GRACE_S


def test_the_setting_is_seconds_or_auto() -> None:
    assert Settings().drain_spread == "auto"
    for given_, value in (("auto", "auto"), ("2.5", 2.5), (0, 0.0)):
        assert Settings.checked({"drain_spread": given_, "graceful_timeout": 30}).drain_spread == value
    for wrong in ("-1", "fast", "inf", None, True):
        with pytest.raises(ConfigError, match=r"^setting drain_spread is .*, must be auto, or a number of seconds"):
            Settings.checked({"drain_spread": wrong})


@pytest.mark.parametrize(
    ("options", "number", "says"),
    [
        ((), signal.SIGTERM, "Draining 100 connections over 0.4 s"),
        (("--drain-spread", "0.2"), signal.SIGTERM, "Draining 100 connections over 0.2 s"),
        ((), signal.SIGQUIT, "Draining 100 connections over 0 s"),
    ],
    ids=["auto", "set", "quick"],
)
def test_a_worker_that_drains_logs_how_many_it_closes_and_over_how_long(
    tmp_path: Path, options: tuple[str, ...], number: signal.Signals, says: str
) -> None:
    with GserverProcess(tmp_path, "echo", *options) as server:
        clients = [server.connect() for _ in range(100)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        server.signal(number)
        assert server.wait() == 0
        assert [client.recv(1) for client in clients] == [b""] * 100
        for client in clients:
            client.close()
    assert says in server.log
