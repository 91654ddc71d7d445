"""Classification: every failure that Google documents, and everything that a broken or hostile upstream may say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.classify import MAX_COOLDOWN, PER_MINUTE_DELAY, UNSTATED_DELAY, Fault, Verdict, classify
from tests.core.cuts import unhurried

#: Noon in California, 19 o'clock UTC, on a summer's day.
NOON = datetime(2026, 8, 1, 19, tzinfo=UTC).timestamp()
TYPE = "type.googleapis.com/google.rpc."


def body(code: int, message: str, status: str, *details: dict[str, Any]) -> bytes:
    """An error as Google lays it out."""
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        error["details"] = list(details)
    return json.dumps({"error": error}, indent=2).encode() + b"\n"


def info(reason: str, domain: str = "googleapis.com", **metadata: str) -> dict[str, Any]:
    return {"@type": TYPE + "ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}


def retry(delay: Any) -> dict[str, Any]:
    return {"@type": TYPE + "RetryInfo", "retryDelay": delay}


def quota(quota_id: str, metric: str = "generate_content_free_tier_requests") -> dict[str, Any]:
    return {
        "@type": TYPE + "QuotaFailure",
        "violations": [
            {
                "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
                "quotaId": quota_id,
                "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash"},
                "quotaValue": "10",
            }
        ],
    }


HELP = {"@type": TYPE + "Help", "links": [{"description": "Learn more", "url": "https://ai.google.dev"}]}
EXCEEDED = "You exceeded your current quota, please check your plan and billing details.\nPlease retry in 56.18s."
EXHAUSTED = "Resource has been exhausted (e.g. check quota)."
CODE_ASSIST = "You have exhausted your capacity on this model. Your quota will reset after 143h4m52s."


def verdict_of(status: int, document: bytes, retry_after: str | None = None) -> Verdict:
    return classify(status, document, now=NOON, retry_after=retry_after)


# -- What Google documents ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "document", "fault", "reason", "delay"),
    [
        pytest.param(
            400,
            body(
                400,
                "Invalid JSON payload received. Unknown name \"x\" at 'request.tools[0]': Cannot find field.",
                "INVALID_ARGUMENT",
                {
                    "@type": TYPE + "BadRequest",
                    "fieldViolations": [{"field": "request.tools[0]", "description": "Cannot find field."}],
                },
            ),
            Fault.FINAL,
            "INVALID_ARGUMENT",
            None,
            id="unknown field",
        ),
        pytest.param(
            400,
            body(
                400,
                "API key not valid. Please pass a valid API key.",
                "INVALID_ARGUMENT",
                info("API_KEY_INVALID", service="generativelanguage.googleapis.com"),
                {"@type": TYPE + "LocalizedMessage", "locale": "en-US", "message": "API key not valid."},
            ),
            Fault.LOCKED,
            "API_KEY_INVALID",
            None,
            id="bad key",
        ),
        pytest.param(
            400,
            body(400, "API key expired.", "INVALID_ARGUMENT", HELP, info("API_KEY_EXPIRED")),
            Fault.LOCKED,
            "API_KEY_EXPIRED",
            None,
            id="expired key",
        ),
        pytest.param(
            403,
            body(
                403,
                "Method doesn't allow unregistered callers (callers without established identity).",
                "PERMISSION_DENIED",
            ),
            Fault.BLOCKED,
            "NO_CREDENTIAL",
            None,
            id="no key",
        ),
        *(
            pytest.param(
                401,
                body(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED", info(reason)),
                Fault.CREDENTIAL,
                reason,
                None,
                id=reason,
            )
            for reason in ("ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_TYPE_UNSUPPORTED", "CREDENTIALS_MISSING")
        ),
        *(
            pytest.param(403, body(403, "No.", "PERMISSION_DENIED", info(reason), HELP), fault, reason, None, id=reason)
            for reason, fault in (
                ("SERVICE_DISABLED", Fault.BLOCKED),
                ("CONSUMER_INVALID", Fault.BLOCKED),
                ("IAM_PERMISSION_DENIED", Fault.UNCLEAR),
                ("VALIDATION_REQUIRED", Fault.LOCKED),
            )
        ),
        pytest.param(
            404,
            body(
                404,
                "models/X is not found for API version v1beta, or is not supported for generateContent.",
                "NOT_FOUND",
            ),
            Fault.NO_MODEL,
            "NOT_FOUND",
            None,
            id="no such model",
        ),
        pytest.param(404, b"<html>404</html>", Fault.ENDPOINT, "HTTP_404", None, id="no such path"),
        pytest.param(
            429,
            body(
                429,
                EXCEEDED,
                "RESOURCE_EXHAUSTED",
                quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
                HELP,
                retry("56s"),
            ),
            Fault.RATE,
            "RESOURCE_EXHAUSTED",
            56.0,
            id="per minute",
        ),
        pytest.param(
            429,
            body(429, "Quota.", "RESOURCE_EXHAUSTED", quota("GenerateRequestsPerMinutePerProjectPerModel")),
            Fault.RATE,
            "RESOURCE_EXHAUSTED",
            PER_MINUTE_DELAY,
            id="per minute without a delay",
        ),
        pytest.param(
            429,
            body(429, EXCEEDED, "RESOURCE_EXHAUSTED"),
            Fault.RATE,
            "RESOURCE_EXHAUSTED",
            56.18,
            id="delay in the text",
        ),
        pytest.param(
            429,
            body(
                429,
                EXCEEDED,
                "RESOURCE_EXHAUSTED",
                quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
                HELP,
                retry("56s"),
            ),
            Fault.QUOTA,
            "DAILY_QUOTA",
            MAX_COOLDOWN,
            id="per day, with a short delay that means nothing",
        ),
        pytest.param(
            429,
            body(429, "Daily Limit Exceeded.", "RESOURCE_EXHAUSTED", retry("1s")),
            Fault.QUOTA,
            "DAILY_QUOTA",
            MAX_COOLDOWN,
            id="daily in the text",
        ),
        pytest.param(
            429,
            body(429, EXCEEDED, "RESOURCE_EXHAUSTED", quota("RequestsDailyX")),
            Fault.QUOTA,
            "DAILY_QUOTA",
            MAX_COOLDOWN,
            id="daily in the name",
        ),
        pytest.param(
            429,
            body(
                429,
                "* Quota exceeded for metric: x/free_tier, limit: 0, model: gemini-2.5-pro\nPlease retry in 5s.",
                "RESOURCE_EXHAUSTED",
                quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
                retry("5s"),
            ),
            Fault.QUOTA,
            "QUOTA_IS_ZERO",
            MAX_COOLDOWN,
            id="a limit of nothing",
        ),
        pytest.param(
            429,
            body(429, "Quota exceeded for x, limit: 10. Please retry in 5s.", "RESOURCE_EXHAUSTED"),
            Fault.RATE,
            "RESOURCE_EXHAUSTED",
            5.0,
            id="a limit of something",
        ),
        pytest.param(
            429,
            body(
                429,
                CODE_ASSIST,
                "RESOURCE_EXHAUSTED",
                info("RATE_LIMIT_EXCEEDED", "cloudcode-pa.googleapis.com", model="m", quotaResetDelay="539.477544ms"),
                retry("0.539477544s"),
            ),
            Fault.RATE,
            "RATE_LIMIT_EXCEEDED",
            0.539477544,
            id="code-assist, too fast",
        ),
        pytest.param(
            429,
            body(
                429,
                CODE_ASSIST,
                "RESOURCE_EXHAUSTED",
                info(
                    "QUOTA_EXHAUSTED",
                    "cloudcode-pa.googleapis.com",
                    quotaResetDelay="143h4m52.7s",
                    quotaResetTimeStamp="2026-08-07T18:04:52Z",
                ),
                retry("515092.7s"),
            ),
            Fault.QUOTA,
            "QUOTA_EXHAUSTED",
            MAX_COOLDOWN,
            id="code-assist, out for days",
        ),
        pytest.param(
            429,
            body(429, "x", "RESOURCE_EXHAUSTED", info("QUOTA_EXHAUSTED", quotaResetDelay="4m52.7s"), retry("1s")),
            Fault.QUOTA,
            "QUOTA_EXHAUSTED",
            292.7,
            id="code-assist, out for minutes",
        ),
        pytest.param(
            429,
            body(
                429,
                "x",
                "RESOURCE_EXHAUSTED",
                info("QUOTA_EXHAUSTED", quotaResetTimeStamp="2026-08-01T19:05:00.123456789Z"),
            ),
            Fault.QUOTA,
            "QUOTA_EXHAUSTED",
            300.123456,
            id="code-assist, out until a time",
        ),
        pytest.param(
            429,
            body(429, "x", "RESOURCE_EXHAUSTED", info("QUOTA_EXHAUSTED"), retry("77s")),
            Fault.QUOTA,
            "QUOTA_EXHAUSTED",
            77.0,
            id="code-assist, out by RetryInfo",
        ),
        pytest.param(
            429,
            body(429, "x", "RESOURCE_EXHAUSTED", info("QUOTA_EXHAUSTED")),
            Fault.QUOTA,
            "QUOTA_EXHAUSTED",
            MAX_COOLDOWN,
            id="code-assist, out for who knows how long",
        ),
        *(
            pytest.param(
                status,
                body(
                    status,
                    "No capacity available for model X on the server",
                    name,
                    info("MODEL_CAPACITY_EXHAUSTED", "cloudcode-pa.googleapis.com", model="X"),
                    *details,
                ),
                Fault.CAPACITY,
                "MODEL_CAPACITY_EXHAUSTED",
                delay,
                id=f"capacity {status}",
            )
            for status, name, details, delay in (
                (429, "RESOURCE_EXHAUSTED", (), None),
                (503, "UNAVAILABLE", (retry("9s"),), 9.0),
            )
        ),
        pytest.param(
            429,
            body(429, "Resource exhausted. Please try again later.", "RESOURCE_EXHAUSTED"),
            Fault.RATE,
            "RESOURCE_EXHAUSTED",
            UNSTATED_DELAY,
            id="vertex, no details",
        ),
        pytest.param(429, b"", Fault.RATE, "HTTP_429", UNSTATED_DELAY, id="429 and nothing"),
        pytest.param(499, body(499, "Cancelled.", "CANCELLED"), Fault.FINAL, "CANCELLED", None, id="cancelled"),
        pytest.param(413, b"<html>", Fault.FINAL, "HTTP_413", None, id="too large"),
        pytest.param(501, body(501, "x", "UNIMPLEMENTED"), Fault.FINAL, "UNIMPLEMENTED", None, id="unimplemented"),
        pytest.param(408, b"", Fault.ENDPOINT, "HTTP_408", None, id="timeout"),
        pytest.param(500, body(500, "Internal.", "INTERNAL"), Fault.ENDPOINT, "INTERNAL", None, id="internal"),
        pytest.param(502, b"<html>Bad gateway", Fault.ENDPOINT, "HTTP_502", None, id="bad gateway"),
        pytest.param(
            503,
            body(503, "This model is currently experiencing high demand.", "UNAVAILABLE"),
            Fault.ENDPOINT,
            "UNAVAILABLE",
            None,
            id="high demand",
        ),
        pytest.param(
            503,
            body(503, "Busy.", "UNAVAILABLE", retry("30s")),
            Fault.ENDPOINT,
            "UNAVAILABLE",
            30.0,
            id="unavailable for a while",
        ),
        pytest.param(
            504, body(504, "Deadline.", "DEADLINE_EXCEEDED"), Fault.ENDPOINT, "DEADLINE_EXCEEDED", None, id="deadline"
        ),
        pytest.param(520, b"", Fault.ENDPOINT, "HTTP_520", None, id="a proxy in between"),
    ],
)
def test_what_google_says_is_understood(
    status: int, document: bytes, fault: Fault, reason: str, delay: float | None
) -> None:
    """As an object, and as the array in which failed streams come."""
    for form in (document, b"[" + document + b"]\n"):
        verdict = verdict_of(status, form)
        assert (verdict.fault, verdict.reason) == (fault, reason)
        assert verdict.delay == (None if delay is None else pytest.approx(delay, abs=1e-6))


# -- Waits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "document", "header", "delay"),
    [
        (429, body(429, "x", "RESOURCE_EXHAUSTED"), "7", 7.0),
        (429, body(429, "x", "RESOURCE_EXHAUSTED", retry("5s")), "7", 7.0),
        (429, body(429, "x", "RESOURCE_EXHAUSTED", retry("9s")), "7", 9.0),
        (429, body(429, "x", "RESOURCE_EXHAUSTED", quota("PerMinute")), "7", 7.0),
        (429, b"", "junk", UNSTATED_DELAY),
        (429, b"", "99999999", MAX_COOLDOWN),
        (503, b"", "7", 7.0),
        (503, b"", "99999999", MAX_COOLDOWN),
        (503, b"", "junk", None),
        (500, body(500, "x", "INTERNAL", retry("9s")), "7", 9.0),
    ],
)
def test_the_header_counts_where_the_body_does_not_say_more(
    status: int, document: bytes, header: str, delay: float | None
) -> None:
    """The longest wait that was stated, capped."""
    assert verdict_of(status, document, header).delay == delay


@pytest.mark.parametrize(
    ("now", "delay"),
    [
        (datetime(2026, 8, 2, 6, 59, tzinfo=UTC), 60.0),  # summer: midnight is 7 o'clock UTC
        (datetime(2026, 8, 2, 7, 0, tzinfo=UTC), MAX_COOLDOWN),
        (datetime(2026, 12, 2, 7, 59, tzinfo=UTC), 60.0),  # winter: 8 o'clock
        (datetime(2026, 3, 9, 6, 50, tzinfo=UTC), 600.0),  # the day of the change itself
    ],
)
def test_a_daily_quota_starts_anew_at_midnight_in_california(now: datetime, delay: float) -> None:
    """Or is probed after an hour, whichever is sooner."""
    verdict = classify(429, body(429, "x", "x", quota("PerDay")), now=now.timestamp())
    assert verdict == Verdict(Fault.QUOTA, "DAILY_QUOTA", delay, "x")


# -- Contradictions and hostility --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "delay"),
    [
        ([retry("5s"), retry("junk")], 5.0),
        ([retry("junk"), retry("5s")], 5.0),
        ([retry("5s"), info("X", quotaResetDelay="9s")], 9.0),
        ([info("X", quotaResetDelay="-9s", quotaResetTimeStamp="2026-08-01T19:00:03Z")], 3.0),
        ([info("X", quotaResetTimeStamp="2026-08-01T19:00:03")], 3.0),
        ([info("X", quotaResetTimeStamp="2026-08-01T21:00:03+02:00")], 3.0),
        ([info("X", quotaResetTimeStamp="1999-01-01T00:00:00Z")], 0.0),
        ([info("X", quotaResetTimeStamp="soon")], UNSTATED_DELAY),
        ([info("X", quotaResetTimeStamp="9999-12-31T23:59:59-23:59")], MAX_COOLDOWN),
        ([retry({"seconds": 3, "nanos": 0})], 3.0),
        ([retry({})], UNSTATED_DELAY),
        ([retry("99999999999h")], MAX_COOLDOWN),
        ([retry(1e300)], MAX_COOLDOWN),
    ],
)
def test_waits_that_contradict_each_other_are_settled(details: list[dict[str, Any]], delay: float) -> None:
    """The longest that can be read counts, none is longer than the cap, and none is negative."""
    verdict = verdict_of(429, body(429, "x", "RESOURCE_EXHAUSTED", *details))
    assert verdict.fault is Fault.RATE
    assert verdict.delay == pytest.approx(delay)


def test_an_empty_reason_is_passed_over() -> None:
    """The next one counts, or the status."""
    assert verdict_of(403, body(403, "x", "PERMISSION_DENIED", info(""), info("B"))).reason == "B"
    assert verdict_of(403, body(403, "x", "PERMISSION_DENIED", info(""))).reason == "PERMISSION_DENIED"
    assert verdict_of(403, body(403, "x", "", info(""))).reason == "HTTP_403"
    assert verdict_of(403, body(403, "x", "", {"@type": TYPE + "ErrorInfo", "reason": "A"})).reason == "A"


DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["-5s", "nan", "5s", "99999999999h", "x" * 1000, "2026-13-01", "RATE_LIMIT_EXCEEDED", "PerDay", TYPE]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DETAILS = st.fixed_dictionaries(
    {},
    optional={
        "@type": JUNK | st.sampled_from([TYPE + name for name in ("ErrorInfo", "RetryInfo", "QuotaFailure")]),
        "reason": JUNK,
        "metadata": JUNK | st.dictionaries(st.sampled_from(["quotaResetDelay", "quotaResetTimeStamp"]), JUNK),
        "retryDelay": JUNK,
        "violations": JUNK
        | st.lists(st.dictionaries(st.sampled_from(["quotaId", "quotaMetric"]), JUNK) | JUNK, max_size=3),
    },
)
DOCUMENTS = st.one_of(
    JUNK,
    st.fixed_dictionaries(
        {
            "error": JUNK
            | st.fixed_dictionaries(
                {}, optional={"message": JUNK, "status": JUNK, "details": JUNK | st.lists(DETAILS | JUNK, max_size=4)}
            )
        }
    ),
)

STATUSES = st.sampled_from([400, 401, 403, 404, 408, 413, 429, 429, 429, 429, 499, 500, 501, 503, 504, 599])


def sane(verdict: Verdict) -> bool:
    """What every verdict is, whatever it was made of."""
    return (
        isinstance(verdict.fault, Fault)
        and isinstance(verdict.reason, str)
        and verdict.reason != ""
        and (verdict.delay is None or 0 <= verdict.delay <= MAX_COOLDOWN)
    )


@unhurried
@given(
    STATUSES,
    DOCUMENTS.map(lambda document: json.dumps(document).encode()) | st.binary(),
    st.none() | st.text(max_size=20),
)
def test_no_hint_raises_or_is_longer_than_the_cap(status: int, document: bytes, header: str | None) -> None:
    """Whatever stands in whichever place."""
    assert sane(verdict_of(status, document, header))
    assert sane(verdict_of(status, b"[" + document + b"]", header))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"[[]]",
        b"<html>",
        b'{"error":null}',
        b'{"error":[]}',
        b'{"error":"text"}',
        b'{"error":{"details":{}}}',
        b'{"error":{"details":[null,5,[],{}]}}',
        b'{"error":{"code":1e400}}',
        b'{"error":{"code":' + b"9" * 5000 + b"}}",
        b'{"error":{"message":"\xff"}}',
        b'{"error":{"message":"\\ud800"}}',
        b'{"error":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        json.dumps({"error": {"message": DEEP, "status": DEEP, "details": [{"@type": DEEP, "reason": DEEP}]}}).encode(),
        body(429, "retry in " + "1" * 1_000_000, "x"),
        body(429, "retry in " * 100_000, "x"),
        body(429, "limit: 1 " * 100_000, "x"),
        body(429, "x", "x", *[info("X" * 10)] * 10_000),
        body(429, "x", "x", retry("1s" * 500_000)),
        body(429, "x", "x", quota("PerSecond" * 100_000)),
    ],
)
def test_a_hostile_body_is_a_plain_failure(document: bytes) -> None:
    """Nothing raises, and no wait gets longer than the cap."""
    for status in (429, 500):
        assert sane(verdict_of(status, document))
    assert verdict_of(429, document).fault is Fault.RATE
