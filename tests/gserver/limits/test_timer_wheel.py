"""The timer wheel: when a thing becomes due, and that removed things do not."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gserver.limits.timer_wheel import NEVER, STEP_S, Wheel


class Thing:
    due_tick = 0


def test_a_thing_is_returned_within_a_tick_after_it_is_due() -> None:
    wheel, thing = Wheel[Thing](0.25), Thing()
    wheel.place(thing, 1.1)

    assert wheel.take_due(1.1) == []
    assert wheel.take_due(1.25) == [thing]
    assert wheel.take_due(9.0) == []


def test_a_thing_can_be_made_due_sooner_but_not_later() -> None:
    wheel, thing = Wheel[Thing](1.0), Thing()
    wheel.place(thing, 5)
    wheel.place(thing, 3)
    wheel.place(thing, 8)

    assert wheel.next_due == 3
    assert wheel.take_due(3) == [thing]
    assert wheel.next_due == math.inf


def test_a_thing_that_is_never_due_is_not_on_the_wheel() -> None:
    wheel, thing = Wheel[Thing](1.0), Thing()
    wheel.place(thing, NEVER)

    assert (thing.due_tick, wheel.next_due) == (0, NEVER)


def test_a_removed_thing_is_not_returned() -> None:
    wheel, things = Wheel[Thing](1.0), [Thing(), Thing()]
    for thing in things:
        wheel.place(thing, 5)
    wheel.remove(things[0])
    wheel.remove(things[0])

    assert wheel.take_due(5) == [things[1]]


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(1, 100), st.booleans())), st.lists(st.floats(1, 110)))
def test_the_wheel_agrees_with_a_list(steps: list[tuple[int, float, bool]], looks: list[float]) -> None:
    wheel, things = Wheel[Thing](0.5), [Thing() for _ in range(10)]
    expected: dict[Thing, int] = {}
    for index, due, is_placed in steps:
        thing = things[index]
        if is_placed:
            wheel.place(thing, due)
            expected[thing] = min(math.ceil(due / 0.5), expected.get(thing, 10**9))
        else:
            wheel.remove(thing)
            expected.pop(thing, None)

    for now in sorted(looks):
        due_now = {thing for thing, tick in expected.items() if tick * 0.5 <= now}
        assert set(wheel.take_due(now)) == due_now
        expected = {thing: tick for thing, tick in expected.items() if thing not in due_now}
    assert wheel.next_due == min((tick * 0.5 for tick in expected.values()), default=NEVER)


PLACE, REMOVE, CHANGE, LOOK = range(4)
#: What is done with the wheel: with a thing, a moment or a tick in seconds.
DONE = st.one_of(
    st.tuples(st.just(PLACE), st.integers(0, 9), st.floats(0, 60)),
    st.tuples(st.just(REMOVE), st.integers(0, 9), st.just(0.0)),
    st.tuples(st.just(CHANGE), st.just(0), st.floats(STEP_S, 2)),
    st.tuples(st.just(LOOK), st.just(0), st.floats(0, 10)),
)


@given(st.lists(DONE, max_size=60))
def test_with_changing_ticks_nothing_is_lost_and_nothing_is_due_more_than_a_tick_late(
    done: list[tuple[int, int, float]],
) -> None:
    tick, now, things = 0.25, 1000.0, [Thing() for _ in range(10)]
    wheel = Wheel[Thing](tick)
    due: dict[Thing, float] = {}  # what is on the wheel, and when it is due first
    latest: dict[Thing, float] = {}
    for what, index, number in done:
        thing = things[index]
        if what == PLACE:
            wheel.place(thing, now + number)
            due[thing] = min(now + number, due.get(thing, math.inf))
            latest[thing] = min(now + number + tick, latest.get(thing, math.inf))
        elif what == REMOVE:
            wheel.remove(thing)
            due.pop(thing, None)
            latest.pop(thing, None)
        elif what == CHANGE:
            tick = number
            wheel.change_tick(tick)
        else:
            now += number
            found = wheel.take_due(now)
            assert len(set(found)) == len(found)
            assert all(now >= due[each] - 1e-6 for each in found)
            for each in found:
                del due[each], latest[each]
                assert each.due_tick == 0
            assert all(now <= moment + 1e-6 for moment in latest.values())
        assert all(bool(each.due_tick) == (each in due) for each in things)
        assert wheel.next_due <= min(latest.values(), default=NEVER) + 1e-6

    assert set(wheel.take_due(now + 1000)) == set(due)
    assert wheel.next_due == NEVER


def test_a_thing_that_was_placed_before_the_tick_changed_can_be_removed() -> None:
    wheel, thing = Wheel[Thing](0.25), Thing()
    wheel.place(thing, 1.1)
    wheel.change_tick(0.07)
    wheel.remove(thing)

    assert wheel.take_due(99.0) == []


def test_a_finer_tick_moves_a_thing_that_is_placed_again() -> None:
    wheel, thing = Wheel[Thing](0.25), Thing()
    wheel.place(thing, 1.01)
    wheel.change_tick(STEP_S)
    wheel.place(thing, 1.01)

    assert math.isclose(wheel.next_due, 1.01)
