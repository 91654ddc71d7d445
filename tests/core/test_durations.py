"""Durations and ``Retry-After`` in every form, and midnight in California."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from zoneinfo import ZoneInfoNotFoundError

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agm.core import durations
from agm.core.durations import parse_duration, parse_retry_after, until_pacific_midnight
from tests.core.cuts import unhurried

#: Noon in California, 19 o'clock UTC, on a summer's day.
NOON = datetime(2026, 8, 1, 19, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("56s", 56.0),
        ("0.539477544s", 0.539477544),
        ("539.477544ms", 0.539477544),
        ("143h4m52.7s", 515_092.7),
        ("1h", 3600.0),
        ("2m", 120.0),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("5\u03bcs", 5e-6),
        ("7ns", 7e-9),
        (" 5s ", 5.0),
        ("0s", 0.0),
        ({"seconds": 56, "nanos": 500_000_000}, 56.5),
        ({"seconds": "56"}, 56.0),
        ({"nanos": 5e8}, 0.5),
        ({"seconds": None, "nanos": 0}, 0.0),
        (5, 5.0),
        (0.5, 0.5),
        ("99999999999h", 359_999_999_996_400.0),
    ],
)
def test_every_form_of_a_duration_is_read(value: object, seconds: float) -> None:
    """Protobuf's, Go's, and the object."""
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "",
        "s",
        "5",
        "-5s",
        "5s-",
        "1e3s",
        "5 s",
        "5S",
        "5d",
        ".5s",
        "5.s",
        "nan",
        "inf",
        "NaNs",
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        10**400,
        "9" * 400 + "s",
        ["5s"],
        b"5s",
        {},
        {"foo": 1},
        {"seconds": []},
        {"seconds": "x"},
        {"seconds": -1},
        {"seconds": "nan"},
        {"seconds": 1e308, "nanos": {"a": 1}},
        "1s" * 500_000 + "x",
    ],
)
def test_what_is_no_duration_is_none(value: object) -> None:
    """Negative, not finite, other types, other spellings."""
    assert parse_duration(value) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        (format_datetime(datetime(2026, 8, 1, 19, 2, tzinfo=UTC), usegmt=True), 120.0),
        ("Sat, 01 Aug 2026 19:02:00 +0000", 120.0),
        ("Sat, 01 Aug 2026 19:02:00 -0000", 120.0),
        ("Sat, 01 Aug 2026 19:02:00", 120.0),
        ("Sat, 01 Aug 2026 21:02:00 +0200", 120.0),
        ("Saturday, 01-Aug-26 19:02:00 GMT", 120.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float) -> None:
    """In every form that HTTP knows; a date without a zone is in UTC, whatever this machine's zone is."""
    assert parse_retry_after(header, NOON) == seconds


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "-5",
        "1.5",
        "1e5",
        "x",
        "٣",
        "²",
        "9" * 5000,
        "Sat, 99 Aug 2026 19:02:00 GMT",
        "0, 0 Jan 0 0:0:0",
        ",",
        "Sat,",
    ],
)
def test_a_retry_after_that_is_neither_says_nothing(header: str) -> None:
    """Nothing raises."""
    assert parse_retry_after(header, NOON) is None


@unhurried
@given(st.text() | st.from_regex(r"\A(Sat, )?\d{1,3} Aug \d{1,5} \d+:\d+:\d+ ([+-]\d+|GMT|)\Z"))
@example("Sat, 01 Aug 2026 19:02:00 +99999999999999")
@example("Sat, 01 Aug 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_no_retry_after_raises(header: str) -> None:
    """Whatever stands in the header, it is a wait or none."""
    seconds = parse_retry_after(header, NOON)
    assert seconds is None or seconds >= 0


def test_without_time_zone_data_a_daily_quota_starts_anew_in_winter_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most an hour late, and nothing fails."""

    def missing(name: str) -> None:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(durations, "ZoneInfo", missing)
    now = datetime(2026, 8, 2, 7, 59, tzinfo=UTC).timestamp()
    assert until_pacific_midnight(now) == 60.0
