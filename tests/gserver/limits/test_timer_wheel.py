"""The timer wheel: when a thing becomes due, and that removed things do not."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gserver.limits.timer_wheel import NEVER, Wheel


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
