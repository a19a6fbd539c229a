from __future__ import annotations

import pytest

from benchmarks.figures import Measurement, Outcome, figures_of
from benchmarks.jobs import JOBS, Scenario


def measured(job: str, connections: int, messages: int = 200_000, payload: int = 64) -> Measurement:
    """The figures of a server that used 1 s of CPU time and 2 MB for the connections, in a measurement of 4 s."""
    outcome = Outcome(messages, 4.0, 3.0, 10.0, 20.0, 30.0)
    return figures_of(Scenario(JOBS[job], connections, payload, 1), 1.0, 2_000_000, outcome)


def test_rates_and_costs_are_of_the_measured_time() -> None:
    assert measured("echo", 50) == {
        "cpu_us": 5.0,
        "msg_s": 50_000.0,
        "p50_us": 10.0,
        "p99_us": 20.0,
        "p999_us": 30.0,
        "client_cpu": 75.0,
    }


def test_memory_is_divided_by_the_number_of_connections() -> None:
    assert measured("idle", 2000, messages=0) == {"bytes_conn": 1000.0, "idle_cpu": 25.0, "client_cpu": 75.0}


def test_memory_is_not_reported_for_few_connections() -> None:
    assert measured("sockets", 999)["bytes_conn"] is None
    assert measured("sockets", 1000)["bytes_conn"] == 2000.0


def test_cpu_time_for_a_byte_depends_on_the_size_of_the_message() -> None:
    figures = measured("sizes", 10, payload=1000)

    assert figures["cpu_ns_byte"] == pytest.approx(5.0)


def test_without_an_answer_there_is_no_cpu_time_for_one() -> None:
    assert measured("echo", 50, messages=0)["cpu_us"] is None
