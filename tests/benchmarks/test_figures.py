from __future__ import annotations

import pytest

from benchmarks.figures import Measurement, Outcome, Usage, figures_of
from benchmarks.jobs import JOBS, Scenario


def measured(job: str, connections: int, messages: int = 200_000, payload: int = 64) -> Measurement:
    """A server that took 1 s of processor and 2 MB for the connections, in a measurement of 4 s."""
    before, ready, after = Usage(5.0, 10_000_000), Usage(7.0, 12_000_000), Usage(8.0, 12_500_000)
    outcome = Outcome(messages, 4.0, 3.0, 10.0, 20.0, 30.0)
    return figures_of(Scenario(JOBS[job], connections, payload, 1), before, ready, after, outcome)


def test_processor_time_counts_from_when_all_connections_are_open() -> None:
    assert measured("echo", 50) == {
        "cpu_us": 5.0,
        "msg_s": 50_000.0,
        "p50_us": 10.0,
        "p99_us": 20.0,
        "p999_us": 30.0,
        "client_cpu": 75.0,
    }


def test_memory_is_what_was_added_when_all_connections_were_open() -> None:
    assert measured("idle", 2000, messages=0) == {"bytes_conn": 1000.0, "idle_cpu": 25.0, "client_cpu": 75.0}


def test_few_connections_tell_nothing_about_memory() -> None:
    assert measured("sockets", 999)["bytes_conn"] is None
    assert measured("sockets", 1000)["bytes_conn"] == 2000.0


def test_a_message_that_is_larger_costs_less_for_a_byte() -> None:
    figures = measured("sizes", 10, payload=1000)

    assert figures["cpu_ns_byte"] == pytest.approx(5.0)


def test_without_an_answer_there_is_no_cost_of_one() -> None:
    assert measured("echo", 50, messages=0)["cpu_us"] is None
