"""Any recording has figures, a verdict and a report."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loadtests.recording.recording import CUT_OFF, TASK, UNSENT, Recording
from loadtests.report.markdown import render_markdown
from loadtests.report.terminal import render_summary
from loadtests.results.metrics import doubts_of_server, figures_of, measure_window, withheld_of
from loadtests.results.retransmits import retransmit_warnings
from loadtests.results.validity import Evidence, judge
from tests.helpers.loadtests_runs import make_run

NS_IN_S = 10**9
SERIES = ["connect", "first_byte", "close", TASK, "SUM", "GREETING"]

seconds = st.integers(0, 12)
latencies_ns = st.sampled_from([0, 1_000, 50_000_000, 5 * NS_IN_S])
events = st.lists(
    st.tuples(
        st.sampled_from(["succeeded", "timeout", "refused", CUT_OFF, UNSENT]),
        st.sampled_from(SERIES),
        seconds,
        latencies_ns,
        st.booleans(),
    ),
    max_size=30,
)
health = st.dictionaries(
    seconds,
    st.fixed_dictionaries(
        {"sockets": st.integers(0, 5), "cpu_s": st.floats(0, 10), "lag_ns": st.integers(0, NS_IN_S)},
        optional={
            "ticks": st.integers(0, 9),
            "asked": st.floats(0, 9),
            "late_sends": st.integers(0, 9),
            "late_ns": st.integers(0, NS_IN_S),
            "namespace": st.just(1),
            "retransmits": st.integers(0, 9),
        },
    ),
    max_size=6,
)


def record(found: list[tuple[str, str, int, int, bool]], of_process: dict[int, dict[str, float]]) -> Recording:
    recording = Recording()
    for kind, series, second, latency_ns, is_scheduled in found:
        response_ns = latency_ns if is_scheduled else None
        if kind == "succeeded":
            recording.succeeded(series, second * NS_IN_S + latency_ns, latency_ns, response_ns)
        elif kind in (CUT_OFF, UNSENT):
            recording.outstanding(series, second * NS_IN_S + latency_ns, kind, latency_ns, response_ns)
        else:
            recording.failed(series, second * NS_IN_S, kind, "text")
    recording.health["a"] = {second: dict(values) for second, values in of_process.items()}
    return recording


@given(
    found=events,
    of_process=health,
    measure=st.one_of(st.none(), st.tuples(seconds, seconds).map(sorted)),
    sockets=st.integers(0, 5),
    offered=st.one_of(st.none(), st.just(0.0), st.floats(0.1, 100)),
    per_task=st.booleans(),
)
def test_any_recording_has_figures_a_verdict_and_a_report(
    found: Any, of_process: Any, measure: Any, sockets: int, offered: float | None, per_task: bool
) -> None:
    recording = record(found, of_process)
    phases = {} if measure is None else {"measure": list(measure)}
    window = measure_window(phases)

    run = make_run(
        figures=figures_of(recording, [], phases, offered, per_task),
        verdict=judge(
            Evidence(recording, [], window, planned_s=8, sockets=sockets, offered=offered, per_task=per_task)
        ),
        warnings=[*doubts_of_server([], phases), *retransmit_warnings(recording, [], window)],
        withheld=withheld_of(recording, [], phases),
        phases=phases,
    )

    assert all(math.isfinite(figure.value) for figure in run.figures)
    assert render_markdown(run)
    assert render_summary(run)
