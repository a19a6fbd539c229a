"""Questions to workers: one at a time, and nothing waits for a worker that does not answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.arbiter.worker_questions import ANSWER_S, MAX_WAITING, Answer, WorkerQuestions

PID = 4711


class Channels:
    """Keeps what is sent to workers, and answers when the test says so."""

    def __init__(self) -> None:
        self.questions = WorkerQuestions(self.send)
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.answers: list[Answer] = []
        self.closed: set[int] = set()

    def send(self, pid: int, text: str) -> bool:
        if pid in self.closed:
            return False
        self.sent.append((pid, json.loads(text)))
        return True

    def ask(self, subject: str = "s", now: float = 0.0, pid: int = PID, **options: Any) -> None:
        self.questions.ask(pid, subject, {}, now, self.answers.append, **options)

    def answer(self, number: int, pid: int = PID, **content: Any) -> None:
        self.questions.receive(pid, json.dumps({"number": number, **(content or page())}))


def page(*rows: Any, more: int | None = None) -> dict[str, Any]:
    return {"result": {"rows": list(rows), "more": more}}


@pytest.fixture
def channels() -> Channels:
    return Channels()


def test_a_question_and_its_answer(channels: Channels) -> None:
    channels.questions.ask(PID, "connections", {"sort": "age"}, 5.0, channels.answers.append)
    assert channels.sent == [(PID, {"number": 1, "subject": "connections", "arguments": {"sort": "age"}})]
    assert channels.questions.wakes_at == 5.0 + ANSWER_S
    channels.answer(1, **page("a", "b", more=3))

    assert channels.answers == [Answer(["a", "b"], 3, None)]
    assert channels.questions.wakes_at is None


def test_an_error_is_a_problem(channels: Channels) -> None:
    channels.ask()
    channels.answer(1, error="KeyError: 'fly'")

    assert channels.answers == [Answer([], None, "KeyError: 'fly'")]


def test_a_worker_has_one_question_at_a_time(channels: Channels) -> None:
    for subject in ("a", "b", "c"):
        channels.ask(subject)
    channels.ask("other", pid=1)
    assert [(pid, sent["subject"]) for pid, sent in channels.sent] == [(PID, "a"), (1, "other")]
    channels.answer(1)
    channels.answer(2)

    assert [sent["subject"] for pid, sent in channels.sent if pid == PID] == ["a", "b", "c"]
    assert len(channels.answers) == 2


def test_all_pages_are_asked_for(channels: Channels) -> None:
    clock = iter([1.0, 2.0, 3.0])
    channels.questions.ask_all_pages(PID, "close", {}, lambda: next(clock), channels.answers.append)
    channels.answer(1, **page("a", more=9))
    channels.answer(2, **page(more=9))
    assert channels.sent[-1][1] == {"number": 3, "subject": "next page", "arguments": {"more": 9}}
    channels.answer(3, **page("b"))

    assert channels.answers == [Answer(["a", "b"])]


def test_rows_before_a_problem_are_kept(channels: Channels) -> None:
    channels.questions.ask_all_pages(PID, "close", {}, lambda: 0.0, channels.answers.append)
    channels.answer(1, **page("a", more=9))
    channels.questions.worker_ended(PID)

    assert channels.answers == [Answer(["a"], problem="the worker has ended")]


# Workers that do not answer


def test_a_question_is_given_up_in_time(channels: Channels) -> None:
    channels.ask(now=0.0)
    channels.ask(now=1.0)
    channels.questions.expire(ANSWER_S - 0.1)
    assert channels.answers == []
    channels.questions.expire(ANSWER_S)
    assert channels.answers == [Answer([], problem="the worker does not answer", is_overdue=True)]
    assert channels.questions.wakes_at == 1.0 + ANSWER_S
    channels.questions.expire(1.0 + ANSWER_S)

    assert len(channels.answers) == 2
    assert channels.questions.wakes_at is None


def test_a_stuck_worker_is_sent_nothing_more_until_it_answers(channels: Channels) -> None:
    """Its channel would fill, and there would be no room for a DRAIN."""
    for number in range(1000):
        channels.ask(now=float(number))
        channels.questions.expire(number + 0.9 + ANSWER_S)
    assert len(channels.sent) == 1
    assert channels.answers == [Answer([], problem="the worker does not answer", is_overdue=True)] * 1000
    channels.ask("last", now=2000.0)
    channels.answer(1)  # late, so nobody gets it
    assert len(channels.answers) == 1000
    assert channels.sent[-1][1]["subject"] == "last"
    channels.answer(channels.sent[-1][1]["number"], **page("found"))

    assert channels.answers[-1] == Answer(["found"])


def test_a_question_can_have_a_limit_of_its_own(channels: Channels) -> None:
    channels.ask(limit_s=60.0)
    channels.questions.expire(59.0)
    assert channels.answers == []
    channels.questions.expire(60.0)

    assert len(channels.answers) == 1


def test_a_worker_that_ends_answers_nothing(channels: Channels) -> None:
    channels.ask()
    channels.ask()
    channels.questions.worker_ended(PID)
    channels.questions.worker_ended(1)

    assert channels.answers == [Answer([], problem="the worker has ended")] * 2
    assert channels.questions.wakes_at is None


def test_a_worker_without_a_channel(channels: Channels) -> None:
    channels.ask()
    channels.ask()
    channels.closed.add(PID)
    channels.answer(1)
    channels.ask()

    problem = Answer([], problem="the worker does not read its messages")
    assert channels.answers == [problem, Answer([]), problem]
    assert channels.questions._waiting == {}


def test_too_many_questions_are_refused_at_once(channels: Channels) -> None:
    for _ in range(MAX_WAITING + 1):
        channels.ask()

    assert channels.answers == [Answer([], problem="too many questions wait for the worker")]


def test_an_answer_may_lead_to_the_next_question(channels: Channels) -> None:
    """Also where that cannot be sent, or where others wait."""
    channels.questions.ask(PID, "first", {}, 0.0, lambda answer: channels.ask("next"))
    channels.ask("other")
    channels.answer(1)
    channels.answer(2)
    channels.answer(3)

    assert [sent["subject"] for _, sent in channels.sent] == ["first", "other", "next"]
    channels.closed.add(PID)
    channels.questions.ask(PID, "first", {}, 0.0, lambda answer: channels.ask("next"))
    assert channels.answers[-1].problem == "the worker does not read its messages"


# What is not an answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "null",
        "[" * 100_000,
        '{"number": 1, "result": null}',
        '{"number": 1, "result": {"rows": 7, "more": null}}',
        '{"number": 1, "result": {"rows": []}}',
        '{"number": 2, "result": {"rows": [], "more": null}}',
        '{"result": {"rows": [], "more": null}}',
        '{"number": [1], "result": {"rows": [], "more": null}}',
    ],
)
def test_nonsense_is_ignored(channels: Channels, text: str) -> None:
    channels.questions.receive(PID, text)
    channels.ask()
    channels.questions.receive(PID, text)
    channels.questions.receive(1, text)
    assert channels.answers == []
    channels.answer(1)

    assert channels.answers == [Answer([])]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(1, 3)),
            st.tuples(st.just("answer"), st.integers(1, 3)),
            st.tuples(st.just("end"), st.integers(1, 3)),
            st.tuples(st.just("close"), st.integers(1, 3)),
            st.tuples(st.just("wait"), st.integers(0, 3)),
        ),
        max_size=60,
    )
)
def test_every_question_is_answered_once(steps: list[tuple[str, int]]) -> None:
    channels, now, asked = Channels(), 0.0, 0
    for step, value in steps:
        if step == "ask":
            channels.ask(now=now, pid=value)
            asked += 1
        elif step == "answer":
            numbers = [sent["number"] for pid, sent in channels.sent if pid == value]
            if numbers:
                channels.answer(numbers[-1], value)
        elif step == "end":
            channels.questions.worker_ended(value)
        elif step == "close":
            channels.closed ^= {value}
        else:
            now += value
            channels.questions.expire(now)
        assert len(channels.answers) <= asked
    channels.questions.expire(now + ANSWER_S)

    assert len(channels.answers) == asked
    assert channels.questions.wakes_at is None
