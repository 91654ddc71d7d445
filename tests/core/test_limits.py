"""Requests per minute: a burst of a minute's worth, then as many as the time that went by gives back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.limits import RequestsPerMinute
from core.cuts import unhurried


def test_a_minutes_requests_may_come_at_once_and_no_more() -> None:
    """The one after has to wait for an even share of the minute."""
    bucket = RequestsPerMinute(3)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 20]
    assert bucket.take(110.0) == pytest.approx(10)
    assert bucket.take(120.0) == 0
    assert bucket.take(120.0) == pytest.approx(20)


def test_a_refused_request_costs_nothing() -> None:
    """Asking again and again does not make the wait longer."""
    bucket = RequestsPerMinute(1)
    assert bucket.take(0.0) == 0
    waits = [bucket.take(float(now)) for now in range(1, 60)]
    assert waits == [pytest.approx(60 - now) for now in range(1, 60)]
    assert bucket.take(60.0) == 0


def test_asking_for_the_wait_takes_nothing() -> None:
    """It is what the next request would be told."""
    bucket = RequestsPerMinute(1)
    assert [bucket.wait(0.0), bucket.wait(0.0), bucket.take(0.0)] == [0, 0, 0]
    assert [bucket.wait(45.0), bucket.wait(45.0), bucket.take(45.0)] == [15, 15, 15]
    assert [bucket.wait(60.0), bucket.take(60.0), bucket.wait(60.0)] == [0, 0, 60]


def test_a_long_pause_gives_back_a_minutes_requests_at_most() -> None:
    """The bucket does not overflow."""
    bucket = RequestsPerMinute(2)
    bucket.take(0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [0, 0, 30]


def test_a_clock_that_is_set_back_neither_gives_nor_takes() -> None:
    """Time goes on from where the clock now is."""
    bucket = RequestsPerMinute(2)
    assert [bucket.take(1000.0), bucket.take(0.0)] == [0, 0]
    assert bucket.take(0.0) == pytest.approx(30)
    assert bucket.take(30.0) == 0


@unhurried
@given(
    st.integers(1, 10_000),
    st.floats(0, 2e9),
    st.lists(st.floats(0, 100), min_size=1, max_size=60),
)
def test_whoever_waits_as_long_as_told_is_served(limit: int, start: float, pauses: list[float]) -> None:
    """Also where a float of the time is only so fine; and the waits are never longer than a minute's share."""
    bucket, now = RequestsPerMinute(limit), start
    for _ in range(limit):
        if bucket.take(now):
            break
    for pause in pauses:
        wait = bucket.take(now)
        assert 0 <= wait <= 60 / limit
        if wait:
            now += wait
            assert bucket.take(now) == 0
        now += pause


@unhurried
@given(st.integers(1, 100), st.lists(st.floats(0, 5), max_size=300))
def test_no_more_are_served_than_the_limit_allows(limit: int, pauses: list[float]) -> None:
    """Over any time: a minute's worth, and what the time since the start gives."""
    bucket, now, served = RequestsPerMinute(limit), 0.0, 0
    for pause in pauses:
        now += pause
        served += bucket.take(now) == 0
        assert served <= limit + now * limit / 60 + 0.1
