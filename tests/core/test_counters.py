"""Counts of what was done: nothing that a client or an upstream makes up makes them grow."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.classify import Fault, Verdict
from agm.core.counters import DURATION_BOUNDS, MAX_MODELS, MAX_REASONS, OTHER, BoundedLabels, Counters, Histogram
from agm.core.request import AttemptRecord, RequestRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.usage import Usage
from agm.testing.conformance import build_request
from tests.core.cuts import unhurried

TRIED = AttemptRecord("1", 1, "work", "first", "https://x", "m", 0.0, 0.4, 0.4, 200, None)


def record(**changes: Any) -> RequestRecord:
    """A call that went well."""
    request = attrs.evolve(build_request(), **changes.pop("request", {}))
    values: dict[str, Any] = {
        "request": request,
        "started": 0.0,
        "ended": 2.5,
        "first_byte": 0.4,
        "status": 200,
        "outcome": "ok",
        "sent": 10,
        "attempts": (TRIED,),
        "account": "work",
        "usage": None,
    }
    return RequestRecord(**{**values, **changes})


@pytest.fixture
def counters() -> Counters:
    return Counters(lambda model: model.startswith("gemini-"), lambda account: "api-key")


def test_a_call_is_counted_by_how_it_ended(counters: Counters) -> None:
    counters.finished(record())
    counters.finished(record(request={"framing": Framing.SSE, "method": "streamGenerateContent"}, outcome="cancelled"))
    assert counters.requests == {
        ("generateContent", "unary", "200", "ok"): 1,
        ("streamGenerateContent", "sse", "200", "cancelled"): 1,
    }
    assert counters.attempts == {("api-key", "ok"): 2}
    assert counters.sent == 20
    assert sum(counters.duration["generateContent", "unary"].counts) == 1
    assert sum(counters.duration["streamGenerateContent", "sse"].counts) == 0  # it did not come to its end
    assert sum(counters.first_byte["streamGenerateContent", "sse"].counts) == 1


def test_an_error_is_the_upstreams_or_the_gateways(counters: Counters) -> None:
    """The gateway's own is counted where it is answered, whatever it is an answer to."""
    failed = attrs.evolve(TRIED, verdict=Verdict(Fault.RATE, "RATE_LIMIT_EXCEEDED", 5.0), status=429)
    counters.finished(record(outcome="error", status=429, attempts=(failed,), first_byte=0.1))
    counters.finished(record(outcome="error", status=503, attempts=(failed,), account=None, first_byte=None))
    counters.refused("UNAVAILABLE")
    counters.finished(record(outcome="aborted"))
    assert counters.errors == {
        ("upstream", "RATE_LIMIT_EXCEEDED"): 1,
        ("gateway", "UNAVAILABLE"): 1,
        ("upstream", "BROKEN_OFF"): 1,
    }
    assert counters.tries == {("work", "RATE_LIMIT_EXCEEDED"): 2, ("work", "ok"): 1}


def test_tokens_are_counted_by_model(counters: Counters) -> None:
    """A model that nobody configured is one of the others."""
    usage = Usage(prompt=5, output=4, cached=3, thoughts=2, tool=1, total=12)
    for model in ("gemini-a", "gemini-a", "invented", "invented too"):
        counters.finished(record(request={"model": model}, usage=usage))
    assert counters.tokens == {"gemini-a": [10, 8, 6, 4, 2], OTHER: [10, 8, 6, 4, 2]}


def test_what_others_make_up_does_not_grow(counters: Counters) -> None:
    """Models that accounts report, words of upstreams, statuses, methods."""
    for number in range(10_000):
        verdict = Verdict(Fault.FINAL, f"WORD_{number}")
        counters.refused(f"OWN_{number}")
        counters.finished(
            record(
                request={"model": f"gemini-{number}", "method": f"method{number}"},
                usage=Usage(prompt=1),
                status=300 + number % 699,
                outcome="error",
                attempts=(attrs.evolve(TRIED, verdict=verdict),),
            )
        )
    assert len(counters.tokens) == MAX_MODELS + 1
    assert len(counters.errors) <= 2 * (MAX_REASONS + 1)
    assert len(counters.attempts) <= MAX_REASONS + 1
    assert {method for method, _, _, _ in counters.requests} == {OTHER}
    assert len(counters.requests) < 80
    assert sum(counters.requests.values()) == 10_000


@pytest.mark.parametrize(
    ("method", "counted"),
    [("files.create", "files"), ("cachedContents.get", "cachedContents"), ("predict", "predict"), ("x.y", OTHER)],
)
def test_resources_are_told_apart_by_their_collection(counters: Counters, method: str, counted: str) -> None:
    counters.finished(record(request={"method": method}))
    assert [key[0] for key in counters.requests] == [counted]


def test_names_beyond_the_number_are_others() -> None:
    """Those that were known before stay themselves."""
    names = BoundedLabels(2, lambda name: name != "bad")
    assert [names[name] for name in ("a", "bad", "b", "c", "a")] == ["a", OTHER, "b", OTHER, "a"]


@unhurried
@given(st.lists(st.floats(0, 1e5), max_size=50))
def test_each_value_is_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    """As Prometheus defines them: up to and with the bound."""
    spread = Histogram(DURATION_BOUNDS)
    for value in values:
        spread.add(value)
    assert sum(spread.counts) == len(values)
    for at, bound in enumerate(DURATION_BOUNDS):
        assert sum(spread.counts[: at + 1]) == sum(value <= bound for value in values)
    assert spread.sum == pytest.approx(sum(values))
