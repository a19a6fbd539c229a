from __future__ import annotations

import pytest

from benchmarks.figures import FIGURES
from benchmarks.jobs import AXES, GROUPS, JOBS, Job, in_bytes, jobs_named, with_axes


def test_each_combination_of_the_axes_is_a_scenario() -> None:
    job = with_axes(JOBS["echo"], {"connections": (1, 2), "depth": (3, 4)})

    assert [(each.connections, each.payload, each.depth) for each in job.scenarios()] == [
        (1, 64, 3),
        (1, 64, 4),
        (2, 64, 3),
        (2, 64, 4),
    ]


def test_the_text_of_a_scenario_has_its_value_on_each_axis() -> None:
    (scenario,) = with_axes(JOBS["echo"], {"connections": (1,), "payload": (16384,)}).scenarios()

    assert str(scenario) == "echo: 1 connection, 16 KiB, 1 in flight"


def test_a_label_has_the_axes_with_several_values() -> None:
    labels = [each.label for each in with_axes(JOBS["echo"], {"connections": (10, 2000), "depth": (1, 8)}).scenarios()]

    assert labels[0] == "10 connections, 1 in flight"
    assert labels[-1] == "2,000 connections, 8 in flight"
    assert JOBS["echo"].scenarios()[0].label == ""


@pytest.mark.parametrize(("size", "text"), [(64, "64 B"), (1024, "1 KiB"), (1500, "1500 B"), (2 * 1024**2, "2 MiB")])
def test_sizes_are_shown_in_whole_units(size: int, text: str) -> None:
    assert in_bytes(size) == text


def test_an_axis_that_a_job_fixes_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="--payload does not apply to the job json"):
        with_axes(JOBS["json"], {"payload": (64,)})


def test_a_group_is_replaced_by_its_jobs_and_each_job_comes_once() -> None:
    found = [job.name for job in jobs_named(["sizes", "scaling", "echo", "echo"])]

    assert found == ["sizes", "sockets", "broadcast", "echo"]


def test_an_unknown_job_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ValueError, match=r"there is no job 'ecko'; the jobs are echo, json, .*, scaling"):
        jobs_named(["echo", "ecko"])


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_has_known_figures_and_known_axes(job: Job) -> None:
    assert set(job.figures) <= set(FIGURES)
    assert job.fixed <= set(AXES)
    assert job.scenarios()


def test_groups_consist_of_jobs() -> None:
    assert {name for names in GROUPS.values() for name in names} <= set(JOBS)
