"""Places: the longest waiting call is next, the queue is bounded, and no place is lost."""

from __future__ import annotations

import gevent
import pytest

from gserver.offload.errors import Died, Full, Timeout
from gserver.offload.places import Places


def make(free: int = 0, most_waiting: int = 2) -> Places[int]:
    return Places("thread", range(free), most_waiting)


def test_free_places_are_taken_without_waiting() -> None:
    places = make(free=2)

    assert {places.take(None), places.take(None)} == {0, 1}


def test_a_free_place_goes_to_the_call_that_has_waited_longest() -> None:
    places = make()
    first, second = gevent.spawn(places.take, None), gevent.spawn(places.take, None)
    gevent.idle()
    places.give(7)
    places.give(8)

    assert (first.get(timeout=5), second.get(timeout=5)) == (7, 8)


def test_a_call_above_the_length_of_the_queue_is_refused_at_once() -> None:
    places = make(most_waiting=1)
    waiting = gevent.spawn(places.take, None)
    gevent.idle()

    with pytest.raises(Full) as refused:
        places.take(None)
    assert str(refused.value) == "no thread is free, and 1 calls wait for one (setting offload_queue: 1)"
    waiting.kill()


def test_a_queue_of_length_0_refuses_what_cannot_run_at_once() -> None:
    places = make(free=1, most_waiting=0)
    places.take(None)

    with pytest.raises(Full):
        places.take(None)


def test_a_call_that_waits_too_long_leaves_the_queue() -> None:
    places = make()

    with pytest.raises(Timeout) as over:
        places.take(0.01)
    assert str(over.value) == "no thread was free within 0.01 s"
    assert places.waiting == 0


def test_an_interrupted_call_leaves_the_queue() -> None:
    places = make()
    waiting = gevent.spawn(places.take, None)
    gevent.idle()
    waiting.kill()

    assert places.waiting == 0


def test_a_place_given_to_a_call_that_is_interrupted_meanwhile_is_not_lost() -> None:
    places = make()
    waiting = gevent.spawn(places.take, None)
    gevent.idle()
    waiting.kill(block=False)  # takes effect in the next iteration of the event loop
    places.give(7)

    assert places.take(0.01) == 7


def test_a_removed_place_is_not_given() -> None:
    places = make(free=1)
    places.remove(0)
    places.remove(0)

    with pytest.raises(Timeout):
        places.take(0.01)


def test_all_waiting_calls_can_be_failed() -> None:
    places = make()
    waiting = [gevent.spawn(places.take, None) for _ in range(2)]
    gevent.idle()
    places.fail_waiting(Died("no process can be started"))

    gevent.joinall(waiting, timeout=5)
    assert [str(each.exception) for each in waiting] == ["no process can be started"] * 2
    assert places.waiting == 0
