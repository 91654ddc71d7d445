"""The limits of client keys: minutes that come back evenly, days that end at midnight, tokens charged afterwards."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core import limits as limits_module
from agm.core.limits import DAY, Allowances, Exceeded, Limits, PerMinute
from tests.core.cuts import unhurried


def test_a_minutes_requests_may_come_at_once_and_no_more() -> None:
    """The one after has to wait for an even share of the minute."""
    bucket = PerMinute(3)
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 20]
    assert bucket.take(110.0) == pytest.approx(10)
    assert bucket.take(120.0) == 0
    assert bucket.take(120.0) == pytest.approx(20)


def test_a_refused_request_costs_nothing() -> None:
    """Asking again and again does not make the wait longer."""
    bucket = PerMinute(1)
    assert bucket.take(0.0) == 0
    waits = [bucket.take(float(now)) for now in range(1, 60)]
    assert waits == [pytest.approx(60 - now) for now in range(1, 60)]
    assert bucket.take(60.0) == 0


def test_asking_for_the_wait_takes_nothing() -> None:
    """It is what the next request would be told."""
    bucket = PerMinute(1)
    assert [bucket.wait(0.0), bucket.wait(0.0), bucket.take(0.0)] == [0, 0, 0]
    assert [bucket.wait(45.0), bucket.wait(45.0), bucket.take(45.0)] == [15, 15, 15]
    assert [bucket.wait(60.0), bucket.take(60.0), bucket.wait(60.0)] == [0, 0, 60]


def test_a_long_pause_gives_back_a_minutes_requests_at_most() -> None:
    """The bucket does not overflow."""
    bucket = PerMinute(2)
    bucket.take(0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [0, 0, 30]


def test_a_clock_that_is_set_back_neither_gives_nor_takes() -> None:
    """Time goes on from where the clock now is."""
    bucket = PerMinute(2)
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
    bucket, now = PerMinute(limit), start
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
    bucket, now, served = PerMinute(limit), 0.0, 0
    for pause in pauses:
        now += pause
        served += bucket.take(now) == 0
        assert served <= limit + now * limit / 60 + 0.1


# Allowances: what client keys have used of all their limits


@attrs.define
class Time:
    """Both clocks, which a test moves."""

    now: float = 100.0
    wall: float = 20_000 * DAY + 3_600.0  # an hour after a midnight

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def allowances(time: Time) -> Allowances:
    return Allowances(lambda: time.now, lambda: time.wall)


def refusal(exceeded: Exceeded | None) -> tuple[str, float] | None:
    return None if exceeded is None else (exceeded.name, round(exceeded.wait, 3))


def test_a_days_requests_end_and_begin_anew_at_midnight(time: Time, allowances: Allowances) -> None:
    """The wait is until then, to the second."""
    limits = Limits(requests_per_day=2)
    for _ in range(2):
        assert allowances.admit("a", limits, spends=True) is None
    assert refusal(allowances.admit("a", limits, spends=True)) == ("requests_per_day", 23 * 3600)
    assert allowances.admit("b", limits, spends=True) is None  # another's day is its own
    time.pass_(23 * 3600 - 1)
    assert refusal(allowances.admit("a", limits, spends=True)) == ("requests_per_day", 1)
    time.pass_(1)
    assert allowances.admit("a", limits, spends=True) is None
    assert allowances.today("a") == (1, 0)


def test_tokens_are_charged_afterwards_and_the_last_request_may_overshoot(time: Time, allowances: Allowances) -> None:
    """What a day was overdrawn by is forgotten at midnight."""
    limits = Limits(tokens_per_day=100)
    assert allowances.admit("a", limits, spends=True) is None
    allowances.charge("a", 99)
    assert allowances.admit("a", limits, spends=True) is None
    allowances.charge("a", 10_000)
    assert refusal(allowances.admit("a", limits, spends=True)) == ("tokens_per_day", 23 * 3600)
    assert allowances.admit("a", limits, spends=False) is None  # it uses none
    time.pass_(23 * 3600)
    assert allowances.admit("a", limits, spends=True) is None
    assert allowances.today("a") == (1, 0)


def test_a_minutes_tokens_that_were_overdrawn_have_to_come_back(time: Time, allowances: Allowances) -> None:
    """So that the limit holds on average."""
    limits = Limits(tokens_per_minute=1000)
    assert allowances.admit("a", limits, spends=True) is None
    allowances.charge("a", 3000)
    exceeded = allowances.admit("a", limits, spends=True)
    assert exceeded is not None
    assert exceeded.wait == pytest.approx(120.06)  # 2,001 tokens at 1,000 a minute
    assert allowances.admit("a", limits, spends=False) is None
    time.pass_(exceeded.wait)
    assert allowances.admit("a", limits, spends=True) is None


def test_the_longest_wait_is_told_and_a_refused_request_costs_nothing(allowances: Allowances) -> None:
    """Whoever waits as told must not meet the next limit at once."""
    limits = Limits(requests_per_minute=1, requests_per_day=1, tokens_per_minute=60)
    assert allowances.admit("a", limits, spends=True) is None
    allowances.charge("a", 120)
    for _ in range(3):
        assert refusal(allowances.admit("a", limits, spends=True)) == ("requests_per_day", 23 * 3600)
    assert allowances.today("a") == (1, 120)
    assert refusal(allowances.admit("a", attrs.evolve(limits, requests_per_day=None), spends=True)) == (
        "tokens_per_minute",
        61,
    )


def test_looking_counts_nothing(allowances: Allowances) -> None:
    """As an explanation does."""
    limits = Limits(requests_per_minute=1, requests_per_day=1)
    for _ in range(3):
        assert allowances.admit("a", limits, spends=True, counting=False) is None
    assert allowances.today("a") == (0, 0)
    assert allowances.admit("a", limits, spends=True) is None
    assert allowances.admit("a", limits, spends=True, counting=False) is not None


def test_another_limit_holds_from_the_next_request_on(allowances: Allowances) -> None:
    """A reload keeps a day's count, and the minute too unless its limit changed."""
    assert allowances.admit("a", Limits(requests_per_minute=1, requests_per_day=1), spends=True) is None
    assert refusal(allowances.admit("a", Limits(requests_per_minute=1), spends=True)) == ("requests_per_minute", 60)
    assert allowances.admit("a", Limits(requests_per_minute=2, requests_per_day=2), spends=True) is None
    assert refusal(allowances.admit("a", Limits(requests_per_day=2), spends=True)) == ("requests_per_day", 23 * 3600)
    assert allowances.admit("a", Limits(), spends=True) is None


def test_a_restart_on_the_same_day_goes_on_counting(time: Time, allowances: Allowances) -> None:
    """On the next day it begins anew."""
    changes: list[int] = []
    allowances.changed = lambda: changes.append(1)
    allowances.admit("a", Limits(), spends=True)
    allowances.charge("a", 7)
    allowances.admit("looked", Limits(), spends=True, counting=False)
    assert len(changes) == 2
    day, counts = allowances.dump()
    assert dict(counts) == {"a": (1, 7)}
    after = Allowances(lambda: time.now, lambda: time.wall)
    after.load(day, counts.items())
    assert after.today("a") == (1, 7)
    time.pass_(DAY)
    assert after.today("a") == (0, 0)
    assert dict(after.dump()[1]) == {}
    after.load(day, counts.items())
    assert after.today("a") == (0, 0)


def test_a_clock_that_is_wrong_for_a_while_takes_no_count_away(time: Time, allowances: Allowances) -> None:
    """Set forward by days and back again: the day goes on where it was, though requests came in between."""
    limits = Limits(requests_per_day=2)
    for _ in range(2):
        allowances.admit("busy", limits, spends=True)
    allowances.admit("quiet", limits, spends=True)
    allowances.charge("busy", 7)
    time.wall += 3 * DAY
    assert (allowances.today("busy"), allowances.today("quiet")) == ((0, 0), (0, 0))
    assert allowances.admit("busy", limits, spends=True) is None
    time.wall -= 3 * DAY
    assert (allowances.today("busy"), allowances.today("quiet")) == ((2, 7), (1, 0))
    assert allowances.dump() == (20_000, {"busy": (2, 7), "quiet": (1, 0)})
    assert refusal(allowances.admit("busy", limits, spends=True)) == ("requests_per_day", 23 * 3600)
    time.wall += 3 * DAY
    assert allowances.today("busy") == (1, 0)


def test_a_start_before_the_first_word_of_a_time_server_takes_no_count_away(time: Time, allowances: Allowances) -> None:
    """A machine without a battery for its clock begins in 1970."""
    limits = Limits(requests_per_day=2)
    right, time.wall = time.wall, 30.0
    allowances.load(int(right // DAY), [("a", (1, 5))])
    assert allowances.admit("a", limits, spends=True) is None
    assert allowances.today("a") == (1, 0)
    time.wall = right
    assert allowances.admit("a", limits, spends=True) is None
    assert allowances.today("a") == (2, 5)
    assert refusal(allowances.admit("a", limits, spends=True)) == ("requests_per_day", 23 * 3600)


def test_names_are_bounded_and_yesterdays_go_first(
    time: Time, allowances: Allowances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are looked up elsewhere have any number of names."""
    monkeypatch.setattr(limits_module, "MAX_KEYS", 3)
    allowances.admit("old", Limits(), spends=True)
    time.pass_(DAY)
    for name in ("a", "b", "c", "d"):
        allowances.admit(name, Limits(), spends=True)
    assert sorted(allowances.dump()[1]) == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "says", "metric", "quota"),
    [
        (
            "requests_per_minute",
            "may make 5 requests per minute. Please retry in 1.500s.",
            "agm/client_key_requests",
            "RequestsPerMinutePerClientKey",
        ),
        (
            "tokens_per_day",
            "may use 5 tokens per day. A day begins at midnight UTC. Please retry in 1.500s.",
            "agm/client_key_tokens",
            "TokensPerDayPerClientKey",
        ),
    ],
)
def test_a_limit_is_told_in_googles_form(name: Any, says: str, metric: str, quota: str) -> None:
    """QuotaFailure and RetryInfo, and a quotaId by which clients tell waiting from giving up."""
    error = Exceeded(name, 5, 1.5).error()
    assert error.message == f"This client key {says}"
    assert error.headers() == [(b"Retry-After", b"2")]
    details = {d["@type"].rpartition(".")[2]: d for d in json.loads(error.body())["error"]["details"]}
    assert details["ErrorInfo"]["reason"] == "CLIENT_KEY_LIMIT"
    assert details["RetryInfo"]["retryDelay"] == "1.5s"
    assert details["QuotaFailure"]["violations"] == [{"quotaMetric": metric, "quotaId": quota, "quotaValue": "5"}]


@unhurried
@given(
    st.builds(
        Limits, *[st.none() | st.integers(1, 50), st.none() | st.integers(1, 20), st.none() | st.integers(1, 5000)]
    ),
    st.lists(st.tuples(st.floats(0, 5000), st.integers(0, 3000), st.booleans()), max_size=60),
)
def test_whoever_waits_for_as_long_as_all_limits_say_is_served(
    limits: Limits, steps: list[tuple[float, int, bool]]
) -> None:
    """For every limit together, whatever was used before."""
    time = Time()
    allowances = Allowances(lambda: time.now, lambda: time.wall)
    for pause, tokens, spends in steps:
        time.pass_(pause)
        exceeded = allowances.admit("a", limits, spends=spends)
        if exceeded is None:
            allowances.charge("a", tokens)
        else:
            time.pass_(exceeded.wait)
            assert allowances.admit("a", limits, spends=spends) is None
