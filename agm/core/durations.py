"""
Times as upstreams write them: durations in all of Google's forms, ``Retry-After``, and the next Pacific midnight.

Nothing here knows what a time is for, and none of it reads a clock: `now` is handed in, in seconds since the epoch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["parse_duration", "parse_retry_after", "seconds_until", "until_pacific_midnight"]

#: A longer text is no duration, and is not looked at.
MAX_STATED = 64
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|h|m|s))")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(value: object) -> float | None:
    """
    Read a duration in any form that Google writes; returns seconds, None if it is none, negative or not finite.

    ``"56s"``, ``"0.539477544s"``, ``"539.477544ms"``, ``"143h4m52.7s"``, ``{"seconds": 56, "nanos": 0}``, numbers.
    """
    seconds: float | None = None
    if isinstance(value, bool):
        return None
    try:
        if isinstance(value, int | float):
            seconds = float(value)
        elif isinstance(value, Mapping) and value.keys() & {"seconds", "nanos"}:
            whole, nanos = (0 if value.get(name) is None else value[name] for name in ("seconds", "nanos"))
            seconds = float(whole) + float(nanos) / 1e9
        elif isinstance(value, str) and len(value) <= MAX_STATED:
            parts = _DURATION.findall(value)
            if parts and "".join(number + unit for number, unit in parts) == value.strip():
                seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    except (TypeError, ValueError, OverflowError):
        return None
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return None
    return seconds


def parse_retry_after(value: str, now: float) -> float | None:
    """Read a ``Retry-After`` header, a number or an HTTP date; returns seconds from `now`, None if it is neither."""
    value = value.strip()
    if len(value) > MAX_STATED:
        return None
    if value.isascii() and value.isdigit() and len(value) < 12:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return seconds_until(when, now)


def seconds_until(when: datetime, now: float) -> float:
    """Count the seconds until `when`, 0 if it is over; a time without a zone is UTC, never this machine's."""
    return max(0.0, (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp() - now)


def until_pacific_midnight(now: float) -> float:
    """Count the seconds until Google's daily quotas start anew: midnight, Pacific time."""
    try:
        zone: timezone | ZoneInfo = ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a machine without time zone data: winter time is at most an hour late
        zone = timezone(timedelta(hours=-8))
    local = datetime.fromtimestamp(now, zone)
    midnight = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight.timestamp() - now
