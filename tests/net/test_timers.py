"""Deadlines: never early, late by half a second at most, and cheap to move."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from agm.net.timers import EXACT, GRAIN, Deadlines


@given(st.lists(st.tuples(st.floats(0, 4000), st.floats(0, 3)), min_size=1, max_size=30))
def test_a_deadline_is_never_early_and_at_most_a_grain_late(waits: list[tuple[float, float]]) -> None:
    """Whatever else is waited for, and whenever it was set."""
    clock = Clock()
    deadlines = Deadlines(clock)
    fired: dict[int, float] = {}
    due: dict[int, float] = {}
    for number, (seconds, later) in enumerate(waits):
        due[number] = clock.seconds() + seconds
        deadlines.after(seconds, lambda number=number: fired.__setitem__(number, clock.seconds()))  # type: ignore[misc]
        clock.advance(later)
    while clock.getDelayedCalls():
        clock.advance(max(min(call.getTime() for call in clock.getDelayedCalls()) - clock.seconds(), 0))
    assert fired.keys() == due.keys()
    for number, at in fired.items():
        step = max((later for _, later in waits), default=0)  # the clock of this test goes in steps
        assert due[number] <= at + 1e-6 <= due[number] + GRAIN + step + 1e-5


@pytest.mark.parametrize("seconds", [EXACT / 2, EXACT * 2])
def test_what_is_cancelled_is_not_called_and_may_be_cancelled_again(seconds: float) -> None:
    clock = Clock()
    deadline = Deadlines(clock).after(seconds, lambda: pytest.fail("it was called"))
    assert deadline.pending
    deadline.cancel()
    deadline.cancel()
    assert not deadline.pending
    clock.advance(seconds * 2)


@pytest.mark.parametrize("seconds", [EXACT / 2, EXACT * 2])
@pytest.mark.parametrize("other", [EXACT * 1.2, EXACT * 3])
def test_a_deadline_moves_both_ways(seconds: float, other: float) -> None:
    clock = Clock()
    fired: list[float] = []
    deadline = Deadlines(clock).after(seconds, lambda: fired.append(clock.seconds()))
    clock.advance(1)
    deadline.reset(other)
    clock.pump([0.25] * 200)
    assert fired
    assert 1 + other <= fired[0] <= 1 + other + GRAIN
    deadline.reset(1)
    assert not deadline.pending
    clock.advance(100)
    assert len(fired) == 1


def test_many_that_were_cancelled_take_no_room_until_they_would_have_been_due() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    for _ in range(3600):
        for deadline in [
            deadlines.after(seconds, lambda: pytest.fail("it was called")) for seconds in (300, 3600) * 50
        ]:
            deadline.cancel()
        clock.advance(1)
    assert sys.getsizeof(deadlines.waiting) < 250_000
    assert len(clock.getDelayedCalls()) <= 1


def test_nothing_of_them_stays_with_the_clock_once_they_are_stopped() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    deadlines.after(EXACT * 3, lambda: pytest.fail("it was called")).cancel()
    deadlines.after(EXACT * 2, lambda: pytest.fail("it was called"))
    deadlines.stop()
    assert not clock.getDelayedCalls()
    deadlines.stop()


def test_one_deadline_may_cancel_another_of_the_same_moment() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)
    fired: list[str] = []
    pair = [deadlines.after(60, lambda: (fired.append("first"), pair[1].cancel())) for _ in range(1)]
    pair.append(deadlines.after(60, lambda: (fired.append("second"), pair[0].cancel())))
    clock.advance(61)
    assert len(fired) == 1


def test_thousands_that_are_set_and_cancelled_leave_nothing_but_one_look() -> None:
    """A request's deadline is an hour away, and there are many requests in an hour."""
    clock = Clock()
    deadlines = Deadlines(clock)
    for _ in range(10_000):
        deadlines.after(3600, lambda: None).cancel()
    assert len(clock.getDelayedCalls()) == 1
    assert not deadlines.waiting
    clock.advance(3601)
    assert clock.getDelayedCalls() == []


@pytest.mark.expects_logged_failures
def test_what_fails_at_its_time_does_not_cost_the_others_theirs(logged_failures: list[dict[str, object]]) -> None:
    """Neither those of the same moment nor those to come."""
    clock = Clock()
    deadlines = Deadlines(clock)
    fired: list[int] = []
    for number in range(3):
        deadlines.after(60, lambda: 1 // 0)
        deadlines.after(60 + 30 * number, lambda number=number: fired.append(number))  # type: ignore[misc]
    clock.pump([1] * 130)
    assert fired == [0, 1, 2]
    assert len(logged_failures) == 3


def test_they_are_looked_through_twice_a_second_at_most_and_hardly_ever_while_none_is_due() -> None:
    """Each look is at all of them."""
    clock = Clock()
    deadlines = Deadlines(clock)
    looks: list[float] = []
    look = deadlines._look
    deadlines._look = lambda: (looks.append(clock.seconds()), look())[1]  # type: ignore[method-assign]
    for number in range(1000):
        deadlines.after(60 + number / 1000, lambda: None)
    clock.pump([0.01] * 6200)
    assert 1 <= len(looks) <= 3
    assert not deadlines.waiting
