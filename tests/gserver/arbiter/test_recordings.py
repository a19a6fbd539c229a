"""Recordings in the arbiter: when they begin and end, over several workers, and what a slow or lost client costs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gserver.arbiter import recordings as recordings_module
from gserver.arbiter.recordings import MAX_RECORDINGS, Recordings
from gserver.arbiter.worker_questions import WorkerQuestions
from gserver.control.protocol import Problem
from tests.gserver.arbiter.control_clients import Client

ROW = {"time": 1, "connection": "7-1", "in": "a"}


def has_answer(client: Client) -> bool:
    return client.answer is not None


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Workers:
    """Workers that answer what the test gives, and the recordings."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self._numbers: dict[int, int] = {}
        self.questions = WorkerQuestions(self._send)
        self.recordings = Recordings(self.questions)

    def _send(self, pid: int, text: str) -> bool:
        question = json.loads(text)
        self._numbers[pid] = question["number"]
        self.asked.append((pid, question["subject"], question["arguments"]))
        return True

    def answer(self, pid: int, *rows: Any, more: int | None = 1) -> None:
        answer = {"number": self._numbers[pid], "result": {"rows": rows, "more": more}}
        self.questions.receive(pid, json.dumps(answer))

    def finish(self, pid: int, *rows: Any, ended: str = "stopped", connections: int = 1, skipped: int = 0) -> None:
        summary = {"ended": ended, "connections": connections, "skipped": skipped}
        self.answer(pid, *rows, summary, more=None)

    def take_asked(self) -> list[tuple[int, str]]:
        asked, self.asked = self.asked, []
        return [(pid, subject) for pid, subject, _ in asked]

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.questions.expire(self.clock.now)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    made = Workers()
    monkeypatch.setattr(recordings_module, "time", made.clock)
    return made


@pytest.fixture
def client() -> Client:
    return Client()


def begin(workers: Workers, client: Client, *pids: int, **arguments: Any) -> None:
    workers.recordings.begin(client, pids, arguments or {"address": "10.0.0.0/8"})


def test_one_connection(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, connection="7-1")
    assert client.listed == []
    workers.answer(7)
    assert client.read_all() == [{"recording": 1}]
    assert workers.take_asked() == [(7, "record")]
    workers.pass_time(0.2)
    assert workers.take_asked() == [(7, "next page")]
    workers.answer(7, ROW)
    assert workers.take_asked() == [], "the client has not read it"
    client.read_all()
    assert workers.take_asked() == [(7, "next page")]
    workers.finish(7, ROW, ended="closed")

    assert client.read_all() == [{"recording": 1}, ROW, ROW]
    assert client.answer == {"ended": "closed", "connections": 1, "skipped": 0, "missing": []}
    assert workers.questions.wakes_at is None or workers.questions.wakes_at > workers.clock.now


def test_it_begins_when_all_workers_record(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, 8)
    workers.answer(7, ROW)
    assert client.listed == []
    workers.answer(8)

    assert client.read_all() == [{"recording": 1}, ROW]


def test_a_worker_that_does_not_answer_delays_the_beginning_only(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, 8)
    workers.answer(7, ROW)
    workers.pass_time(2)
    assert client.read_all() == [{"recording": 1}, ROW]
    workers.pass_time(1000)
    workers.answer(8, {"late": 1})

    assert client.read_all()[-1] == {"late": 1}


def test_pages_wait_for_a_client_that_does_not_read(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, 8)
    workers.answer(7, {"of": 7})
    workers.answer(8, {"of": 8})
    workers.take_asked()
    assert client.listed == [{"recording": 1}]
    workers.pass_time(1000)
    assert workers.take_asked() == [], "one page of each worker"

    assert client.read_all() == [{"recording": 1}, {"of": 7}, {"of": 8}]
    assert workers.take_asked() == [(7, "next page"), (8, "next page")]


def test_an_end_by_the_operator(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, 8)
    workers.answer(7)
    workers.answer(8)
    client.read_all()
    workers.take_asked()
    workers.recordings.end(1)
    assert workers.take_asked() == [(7, "end record"), (8, "end record")]
    for pid in (7, 8):
        workers.answer(pid, more=None)
    workers.pass_time(1)
    for pid in (7, 8):
        workers.finish(pid, {"of": pid}, connections=2)
        client.read_all()

    assert client.listed[1:] == [{"of": 7}, {"of": 8}]
    assert client.answer == {"ended": "stopped", "connections": 4, "skipped": 0, "missing": []}
    with pytest.raises(Problem, match="there is no recording 1"):
        workers.recordings.end(1)


def test_workers_come_and_go(workers: Workers, client: Client) -> None:
    begin(workers, client, 7)
    workers.answer(7)
    workers.questions.worker_ended(7)
    assert client.read_all() == [{"recording": 1}, {"lost": 7, "problem": "the worker has ended"}]
    assert not has_answer(client), "it waits for the next worker"
    workers.take_asked()
    workers.recordings.worker_will_serve(8)
    workers.recordings.worker_will_serve(8)
    assert workers.asked == [(8, "record", {"limit": 64 << 20, "address": "10.0.0.0/8", "recording": 1})]
    workers.answer(8, ROW)
    client.read_all()
    workers.recordings.end(1)
    workers.finish(8)

    assert client.read_all()[-1] == ROW
    assert client.answer is not None
    assert client.answer["missing"] == [{"pid": 7, "problem": "the worker has ended"}]


def test_a_worker_that_ends_between_two_questions(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, connection="7-1")
    workers.answer(7)
    client.read_all()
    workers.questions.worker_ended(7)

    assert client.read_all()[-1] == {"lost": 7, "problem": "the worker has ended"}
    assert client.answer is not None
    assert client.answer["ended"] == "lost"


def test_no_other_worker_is_asked_for_one_connection(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, connection="7-1")
    workers.take_asked()
    workers.recordings.worker_will_serve(8)

    assert workers.take_asked() == []


@pytest.mark.parametrize("ended", ["limit", "mask_failed"])
def test_the_end_of_one_worker_may_end_the_others(workers: Workers, client: Client, ended: str) -> None:
    begin(workers, client, 7, 8)
    workers.answer(8)
    workers.finish(7, ended=ended)
    client.read_all()
    assert workers.take_asked()[-1] == (8, "end record")
    workers.answer(8, more=None)
    workers.pass_time(1)
    workers.finish(8)

    client.read_all()
    assert client.answer is not None
    assert client.answer["ended"] == ended


def test_time_is_over_without_a_worker(workers: Workers, client: Client) -> None:
    begin(workers, client, address="::1", seconds=5)
    client.read_all()
    workers.recordings.worker_will_serve(7)
    assert workers.asked[-1][2]["seconds"] == 5
    workers.questions.worker_ended(7)
    client.read_all()
    workers.pass_time(8)

    assert client.answer is not None
    assert client.answer["ended"] == "seconds"


@pytest.mark.parametrize("has_rows", [False, True])
def test_a_client_that_goes_ends_it_at_once(workers: Workers, client: Client, has_rows: bool) -> None:
    begin(workers, client, 7)
    workers.answer(7, *[ROW] * has_rows)
    workers.take_asked()
    client.go()
    assert workers.take_asked() == [(7, "end record")]
    workers.answer(7, more=None)
    workers.pass_time(1)
    if workers.take_asked() == [(7, "next page")]:
        workers.answer(7, ROW, more=5)
        assert workers.take_asked() == [(7, "forget")]

    assert client.answer is None
    with pytest.raises(Problem):
        workers.recordings.end(1)


def test_what_is_refused(workers: Workers, client: Client) -> None:
    begin(workers, client, 7, connection="7-1")
    workers.answer(7, {"refused": None}, more=None)
    assert str(client.problem) == "there is no connection '7-1'"
    other = Client()
    begin(workers, other, 7, 8)
    workers.answer(7, {"refused": "it is bare"}, more=None)
    workers.answer(8, {"refused": "it is bare"}, more=None)

    assert str(other.problem) == "it is bare"
    assert (client.listed, other.listed) == ([], [])


def test_too_many(workers: Workers) -> None:
    for _ in range(MAX_RECORDINGS):
        begin(workers, Client())
    with pytest.raises(Problem, match="8 recordings run already"):
        begin(workers, Client())


def test_nonsense_of_a_worker(workers: Workers, client: Client) -> None:
    """It runs user code."""
    begin(workers, client, 7)
    workers.answer(7, "text", 5, None)
    client.read_all()
    workers.answer(7, {"ended": ["x"], "connections": "many"}, more=None)
    workers.recordings.end(1)

    assert client.answer is not None
    assert client.answer["ended"] == "stopped"
