"""
What a failed answer of an upstream means for its account and for the next attempt.

Google says the same thing in several ways (an ErrorInfo, a QuotaFailure, a RetryInfo, a number in the text), and the
number in one may contradict the others, so they are read in a fixed order: what a person must act on first, then whole
quotas, then capacity of the model, then short waits.  This module only reads; the pool draws the consequences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs

from agm.core import documents
from agm.core.errors import NOT_JSON

#: A stated delay up to this many seconds is waited out on the same account.
SHORT_DELAY = 2.0
#: A cooldown is never longer than this many seconds, whatever the upstream says: afterwards one request probes.
MAX_COOLDOWN = 3600.0
#: The wait after a 429 that states none, by what the quota's name tells.
PER_MINUTE_DELAY = 60.0
UNSTATED_DELAY = 10.0


class Fault(Enum):
    """What went wrong, as far as routing is concerned."""

    FINAL = "final"  # the client's own request: the answer goes to it as it is
    CREDENTIAL = "credential"  # the account's credential was refused
    FORBIDDEN = "forbidden"  # the account may not use this model until a person acts
    NO_MODEL = "no-model"  # the account lacks the model
    RATE = "rate"  # too many requests just now: wait or take another account
    QUOTA = "quota"  # the account's quota for the model is used up
    CAPACITY = "capacity"  # the model is short of capacity, for everybody
    ENDPOINT = "endpoint"  # the endpoint failed: another may not


@attrs.frozen
class Verdict:
    """
    What a failure means.

    `reason` is Google's own word for it where there is one, `delay` the seconds that it says to wait (already capped),
    None where it says nothing.
    """

    fault: Fault
    reason: str
    delay: float | None = None


#: Characters of a stated delay; what is longer is none, and is not looked at.
MAX_STATED = 64
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|h|m|s))")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
#: What Google says of a file or a cached content that the account does not have, whether or not it exists.
_NOT_ITS_OWN = re.compile(r"permission to access the File |CachedContent not found")
_RETRY_IN = re.compile(r"retry in ((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)", re.IGNORECASE)


def parse_duration(value: object) -> float | None:
    """
    Seconds from any form in which Google writes a duration; None if it is none, negative or not finite.

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
    """Seconds from a ``Retry-After`` header: a number or an HTTP date; `now` is in seconds since the epoch."""
    value = value.strip()
    if len(value) > MAX_STATED:
        return None
    if value.isascii() and value.isdigit() and len(value) < 12:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return _until(when, now)


@attrs.frozen
class _Error:
    """The parts of an error body that matter here."""

    status: str
    message: str
    google: bool
    reasons: tuple[str, ...]
    metadata: Mapping[str, Any]
    quota_ids: tuple[str, ...]
    retry_delay: float | None


def _read(body: bytes) -> _Error:
    try:
        document = documents.decode(body)
    except NOT_JSON:
        document = None
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return _Error("", "", False, (), {}, (), None)
    reasons: list[str] = []
    metadata: dict[str, Any] = {}
    quota_ids: list[str] = []
    delay: float | None = None
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        kind = _text(detail, "@type").rpartition(".")[2]
        if kind == "ErrorInfo":
            reasons += [reason for reason in (_text(detail, "reason"),) if reason]
            if isinstance(detail.get("metadata"), dict):
                metadata.update(detail["metadata"])
        elif kind == "RetryInfo":
            stated = parse_duration(detail.get("retryDelay"))
            delay = delay if stated is None else stated
        elif kind == "QuotaFailure" and isinstance(detail.get("violations"), list):
            quota_ids += [
                f"{_text(violation, 'quotaId')} {_text(violation, 'quotaMetric')}"
                for violation in detail["violations"]
                if isinstance(violation, dict)
            ]
    message = _text(error, "message")
    if delay is None:
        written = _RETRY_IN.search(message)
        delay = parse_duration(written[1]) if written else None
    return _Error(_text(error, "status"), message, True, tuple(reasons), metadata, tuple(quota_ids), delay)


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A field that should be a string; whatever else an upstream writes there says nothing."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def classify(status: int, body: bytes, *, now: float, retry_after: str | None = None) -> Verdict:
    """
    What an upstream's failure means.

    :param status: its HTTP status, 400 or more.
    :param body: its body, whole or cut; need not be JSON.
    :param now: seconds since the epoch, for times that the body states.
    :param retry_after: the value of its ``Retry-After`` header.
    """
    error = _read(body)
    reason = error.reasons[0] if error.reasons else error.status or f"HTTP_{status}"
    if status == 401 or "API_KEY_INVALID" in error.reasons or "API_KEY_EXPIRED" in error.reasons:
        return Verdict(Fault.CREDENTIAL, reason)
    if status in (403, 404) and not error.reasons and _NOT_ITS_OWN.search(error.message):
        return Verdict(Fault.FINAL, reason)  # a file that is another account's, or nobody's, says nothing of this one
    if status == 403:
        return Verdict(Fault.FORBIDDEN, reason)
    if status == 404:
        return Verdict(Fault.NO_MODEL if error.google else Fault.ENDPOINT, reason)
    if "MODEL_CAPACITY_EXHAUSTED" in error.reasons and status in (429, 503):
        return Verdict(Fault.CAPACITY, "MODEL_CAPACITY_EXHAUSTED", _capped(error.retry_delay))
    if status == 429:
        return _classify_429(error, reason, now, retry_after)
    if status == 408 or (status >= 500 and status != 501):
        stated = [d for d in (error.retry_delay, _header_delay(retry_after, now)) if d is not None]
        return Verdict(Fault.ENDPOINT, reason, _capped(max(stated, default=None)))
    return Verdict(Fault.FINAL, reason)


def _classify_429(error: _Error, reason: str, now: float, retry_after: str | None) -> Verdict:
    quotas = " ".join(error.quota_ids)
    if re.search(r"\blimit: 0\b", error.message):
        return Verdict(Fault.QUOTA, "QUOTA_IS_ZERO", MAX_COOLDOWN)
    if "PerDay" in quotas or "Daily" in quotas or "daily" in error.message.lower():
        # a daily failure still carries a short RetryInfo, which means nothing
        return Verdict(Fault.QUOTA, "DAILY_QUOTA", _capped(_until_pacific_midnight(now)))
    reset = _reset_delay(error.metadata, now)
    if "QUOTA_EXHAUSTED" in error.reasons:
        delay = reset if reset is not None else error.retry_delay
        return Verdict(Fault.QUOTA, "QUOTA_EXHAUSTED", _capped(delay if delay is not None else MAX_COOLDOWN))
    stated = [d for d in (reset, error.retry_delay, _header_delay(retry_after, now)) if d is not None]
    if stated:
        return Verdict(Fault.RATE, reason, _capped(max(stated)))
    return Verdict(Fault.RATE, reason, PER_MINUTE_DELAY if "PerMinute" in quotas else UNSTATED_DELAY)


def _header_delay(retry_after: str | None, now: float) -> float | None:
    return None if retry_after is None else parse_retry_after(retry_after, now)


def _reset_delay(metadata: Mapping[str, Any], now: float) -> float | None:
    """The wait that Code Assist states in an ErrorInfo's metadata."""
    delay = parse_duration(metadata.get("quotaResetDelay"))
    if delay is not None:
        return delay
    stamp = metadata.get("quotaResetTimeStamp")
    if not isinstance(stamp, str):
        return None
    try:
        when = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return _until(when, now)


def _until(when: datetime, now: float) -> float:
    """Seconds until `when`; a time without a zone is in UTC, never in that of this machine."""
    return max(0.0, (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp() - now)


def _until_pacific_midnight(now: float) -> float:
    """Seconds until Google's daily quotas start anew: midnight, Pacific time."""
    try:
        zone: timezone | ZoneInfo = ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a machine without time zone data: winter time is at most an hour late
        zone = timezone(timedelta(hours=-8))
    local = datetime.fromtimestamp(now, zone)
    midnight = (local + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight.timestamp() - now


def _capped(delay: float | None) -> float | None:
    return None if delay is None else min(delay, MAX_COOLDOWN)
