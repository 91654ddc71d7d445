"""What is going on now: counts by the second, who is under way, and why a request went no further."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import attrs
import pytest

from agm.core.classify import Fault, Verdict
from agm.core.errors import TooManyRequests
from agm.core.pool.pool import Pool
from agm.core.request import Account, AttemptRecord, Body, GatewayRequest, RequestRecord
from agm.core.wire.answer_filters import Framing
from agm.core.wire.usage import Usage
from agm.observe.activity import FINISHED, MAX_NAMES, SECONDS, SHOWN_OPEN, Live, Underway
from agm.observe.finished import describe_finished
from agm.testing.conformance import build_request


class Time:
    """A clock, and the seconds since the epoch that go with it."""

    def __init__(self) -> None:
        self.now = 1000.25

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_800_000_000 + self.now


class Asking:
    """What prepares a request."""

    def __init__(self, request: GatewayRequest) -> None:
        self.request = request


class Answer:
    """An answer that flows."""

    def __init__(self, sent: int = 0) -> None:
        self.sent = sent


class Tries:
    """What makes attempts."""

    def __init__(self, *records: AttemptRecord) -> None:
        self.records = records


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def live(time: Time) -> Live:
    accounts = [Account(name, "api-key", ("https://example.com",)) for name in ("a", "b")]
    return Live(Pool(accounts, time.clock), time.clock, time.wall)


STREAM = attrs.evolve(build_request(method="streamGenerateContent"), framing=Framing.SSE)
UNARY = build_request()


def attempt(number: int = 1, verdict: Verdict | None = None, **more: Any) -> AttemptRecord:
    known: dict[str, Any] = {
        "request_id": "r",
        "number": number,
        "account": "a",
        "chosen": "the first",
        "endpoint": "https://example.com",
        "model": "m",
        "started": 1_800_001_000.25,
        "first_byte": None if verdict else 0.5,
        "ended": 0.5,
        "status": 429 if verdict else 200,
        "verdict": verdict,
    }
    return AttemptRecord(**{**known, **more})


def record(request: GatewayRequest = UNARY, *attempts: AttemptRecord, **more: Any) -> RequestRecord:
    known: dict[str, Any] = {
        "request": request,
        "started": 1_800_001_000.25,
        "ended": 1.0,
        "first_byte": 0.5,
        "status": 200,
        "outcome": "ok",
        "sent": 10,
        "attempts": attempts,
    }
    return RequestRecord(**{**known, **more})


def stopped(live: Live, *attempts: AttemptRecord, outcome: str = "error", most: int = 3) -> str:
    """Why a request with these attempts went no further."""
    underway = live.begin(Asking(UNARY))
    live.end(underway, record(UNARY, *attempts, outcome=outcome), most)
    found: str = live.latest(1)[0]["stopped"]
    return found


# Counts


def test_a_request_is_counted_when_it_comes_and_its_error_when_it_ends(live: Live, time: Time) -> None:
    underway = live.begin(Asking(UNARY))
    time.now += 2
    live.end(underway, record(outcome="error", status=500), 3)
    found = live.traffic(4)
    assert found["second"] == 2
    assert found["requests"] == [0, 1, 0, 0]
    assert found["errors"] == [0, 0, 0, 1]
    assert live.totals()["requests"] == live.totals()["errors"] == 1


def test_a_stream_is_open_from_its_first_byte_to_its_end_also_in_seconds_without_any_event(
    live: Live, time: Time
) -> None:
    underway = live.begin(Asking(STREAM))
    time.now += 1
    live.relaying(underway, Answer())
    time.now += 3
    assert live.traffic(5)["streams"] == [0, 1, 1, 1, 1]
    assert live.traffic(5)["open"] == [1, 1, 1, 1, 1]
    time.now += 1
    live.end(underway, record(STREAM), 3)
    time.now += 1
    assert live.traffic(7)["streams"] == [0, 1, 1, 1, 1, 1, 0]
    assert live.totals()["streams"] == live.totals()["open"] == 0


def test_a_unary_answer_is_no_stream(live: Live) -> None:
    underway = live.begin(Asking(UNARY))
    live.relaying(underway, Answer())
    assert live.totals()["streams"] == 0
    assert live.totals()["open"] == 1


def test_the_bytes_of_a_long_answer_are_spread_over_the_seconds_that_it_took(live: Live, time: Time) -> None:
    underway = live.begin(Asking(STREAM))
    live.relaying(underway, Answer())
    time.now += 4
    live.end(underway, record(STREAM, sent=52), 3)
    assert live.traffic(6)["sent"] == [0, 10, 10, 10, 10, 12]
    assert live.totals()["sent"] == 52


def test_the_bytes_of_an_answer_under_way_are_counted_when_somebody_looks_and_once(live: Live, time: Time) -> None:
    underway, answer = live.begin(Asking(STREAM)), Answer()
    live.relaying(underway, answer)
    answer.sent = 7
    assert live.traffic(1)["sent"] == [7]
    time.now += 1
    answer.sent = 12
    assert live.traffic(2)["sent"] == [9, 3]
    live.end(underway, record(STREAM, sent=12), 3)
    assert live.traffic(2)["sent"] == [9, 3]


def test_an_answer_longer_than_what_is_kept_is_counted_in_what_is_kept(live: Live, time: Time) -> None:
    underway = live.begin(Asking(STREAM))
    live.relaying(underway, Answer())
    time.now += 10 * SECONDS
    live.end(underway, record(STREAM, sent=SECONDS), 3)
    assert live.traffic()["sent"] == [1] * SECONDS


def test_a_second_is_forgotten_after_its_time(live: Live, time: Time) -> None:
    live.end(live.begin(Asking(UNARY)), record(), 3)
    time.now += SECONDS - 1
    assert sum(live.traffic()["requests"]) == 1
    time.now += 1
    assert sum(live.traffic()["requests"]) == 0
    assert {len(column) for name, column in live.traffic().items() if name != "second"} == {SECONDS}


# Requests


def test_what_is_under_way_is_told_with_its_attempts_and_bytes(live: Live, time: Time) -> None:
    request = attrs.evolve(STREAM, received_at=time.wall())
    underway = live.begin(Asking(request))
    underway.attempts = Tries(attempt(verdict=Verdict(Fault.RATE, "RATE_LIMIT_EXCEEDED")), attempt(2, account="b"))
    time.now += 2
    (waiting,) = live.open_requests()
    assert (waiting["state"], waiting["account"], waiting["seconds"], waiting["sent"]) == ("waiting", None, 2.0, 0)
    live.relaying(underway, Answer(5))
    (answering,) = live.open_requests()
    assert (answering["state"], answering["account"], answering["sent"]) == ("answering", "b", 5)
    assert [(a["account"], a["reason"]) for a in answering["attempts"]] == [("a", "RATE_LIMIT_EXCEEDED"), ("b", None)]
    live.end(underway, record(request), 3)
    assert live.open_requests() == []


def test_as_many_are_told_as_fit_and_the_latest_first(live: Live) -> None:
    for number in range(FINISHED + 5):
        request = attrs.evolve(UNARY, id=f"{number}")
        live.begin(Asking(request))
        live.end(live.begin(Asking(request)), record(request), 3)
    assert [one["id"] for one in live.latest(2)] == [f"{FINISHED + 4}", f"{FINISHED + 3}"]
    assert len(live.latest()) == FINISHED
    assert len(live.open_requests()) == SHOWN_OPEN
    assert live.open_requests()[0]["id"] == f"{FINISHED + 4}"
    assert live.ended == FINISHED + 5


def test_neither_a_body_nor_an_error_with_its_frames_is_kept(live: Live) -> None:
    class Watched(Body):
        """A body that a weak reference can follow."""

        __slots__ = ("__weakref__",)

    body = Watched(b"{}")
    gone = weakref.ref(body)

    def serve(body: Body) -> None:
        request = attrs.evolve(UNARY, body=body)
        underway = live.begin(Asking(request))
        try:
            raise TooManyRequests("Wait.", reason="POOL_RESTING")
        except TooManyRequests as e:
            underway.error = e
        live.end(underway, record(request, outcome="error", status=429), 3)

    serve(body)
    del body
    gc.collect()
    assert gone() is None
    assert (live.latest(1)[0]["reason"], live.latest(1)[0]["message"]) == ("POOL_RESTING", "Wait.")


def test_texts_of_clients_are_cut(live: Live) -> None:
    request = attrs.evolve(UNARY, asked_model="m" * 1000, model="n" * 1000, headers={"user-agent": "u" * 1000})
    live.end(live.begin(Asking(request)), record(request), 3)
    (one,) = live.latest()
    assert {len(one[name]) for name in ("asked", "served", "client")} == {200}


# Why it went no further


RATE = Verdict(Fault.RATE, "RATE_LIMIT_EXCEEDED", 30.0)
FULL = Verdict(Fault.CAPACITY, "MODEL_CAPACITY_EXHAUSTED")


@pytest.mark.parametrize(
    ("attempts", "outcome", "most", "why"),
    [
        ((attempt(),), "ok", 3, "answered"),
        ((attempt(),), "aborted", 3, "was aborted"),
        ((attempt(),), "cancelled", 3, "client left"),
        ((), "error", 3, "before any upstream was asked"),
        ((attempt(verdict=Verdict(Fault.FINAL, "INVALID_ARGUMENT")),), "error", 3, "about the request itself"),
        ((attempt(verdict=RATE), attempt(2, RATE)), "error", 2, "max_attempts was reached, 2"),
        ((attempt(verdict=RATE), attempt(2, RATE)), "error", 3, "No other account"),
        ((attempt(verdict=Verdict(Fault.ENDPOINT, "CONNECTION_LOST"), status=None),), "error", 3, "not sent twice"),
        ((attempt(verdict=Verdict(Fault.ENDPOINT, "CONNECT_FAILED"), status=None),), "error", 3, "No other account"),
        (
            (attempt(verdict=FULL), attempt(2, FULL)),
            "error",
            3,
            "capac",
        ),
        ((attempt(),), "error", 3, "after an upstream had answered"),
    ],
)
def test_it_says_why_nothing_more_was_tried(
    live: Live, attempts: tuple[AttemptRecord, ...], outcome: str, most: int, why: str
) -> None:
    assert why in stopped(live, *attempts, outcome=outcome, most=most)


def test_it_says_what_could_have_been_tried_yet(live: Live) -> None:
    """Account b was ready, and one more attempt allowed."""
    stopped(live, attempt(verdict=RATE), attempt(2, RATE), most=3)
    (one,) = live.latest()
    assert (one["accounts_left"], one["attempts_left"]) == (1, 1)
    stopped(live, attempt(), outcome="ok")
    assert live.latest(1)[0]["accounts_left"] == 0


def test_an_attempt_is_told_with_its_place_in_time(live: Live) -> None:
    first = attempt(verdict=RATE)
    second = attempt(2, account="b", started=first.started + 0.75, first_byte=0.2, ended=0.2)
    live.end(live.begin(Asking(UNARY)), record(UNARY, first, second), 3)
    one = live.latest(1)[0]
    assert one["account"] == "b"
    assert [(a["after"], a["seconds"], a["fault"], a["delay"]) for a in one["attempts"]] == [
        (0.0, 0.5, "rate", 30.0),
        (0.75, 0.2, None, None),
    ]


def test_tokens_are_counted_when_an_answer_has_told_them(live: Live, time: Time) -> None:
    """Those that tools put into the prompt are the prompt's, thoughts the answer's."""
    mine = attrs.evolve(UNARY, client_key="laptop")
    usage = Usage(prompt=7, tool=3, output=20, thoughts=5, cached=6, total=35)
    live.end(live.begin(Asking(mine)), record(mine, usage=usage, finish_reason="STOP"), 3)
    assert (live.traffic(1)["prompt_tokens"], live.traffic(1)["output_tokens"]) == ([10], [25])
    assert (live.totals()["prompt_tokens"], live.totals()["output_tokens"]) == (10, 25)
    assert (live.key_use()["laptop"]["prompt_tokens"], live.key_use()["laptop"]["output_tokens"]) == (10, 25)
    one = live.latest(1)[0]
    assert (one["prompt_tokens"], one["output_tokens"], one["finish_reason"]) == (10, 25, "STOP")


# Use


def test_the_use_of_keys_and_accounts_is_counted(live: Live) -> None:
    mine = attrs.evolve(UNARY, client_key="laptop")
    live.end(live.begin(Asking(mine)), record(mine, attempt(verdict=RATE), attempt(2, account="b")), 3)
    live.end(live.begin(Asking(UNARY)), record(outcome="error"), 3)
    assert live.tries("a") == {"attempts": 1, "failed": 1}
    assert live.tries("b") == {"attempts": 1, "failed": 0}
    assert live.tries("c") == {"attempts": 0, "failed": 0}
    use = live.key_use()
    assert (use["laptop"]["requests"], use["laptop"]["errors"]) == (1, 0)
    assert (use[None]["requests"], use[None]["errors"]) == (1, 1)
    assert use["laptop"]["last_used"] == 1_800_001_001.25


def test_as_many_names_are_counted_as_there_is_room_for(live: Live) -> None:
    """The one that was not used for the longest goes."""

    def serve(name: str) -> None:
        request = attrs.evolve(UNARY, client_key=name)
        live.end(live.begin(Asking(request)), record(request, attempt(account=name)), 3)

    for number in range(MAX_NAMES):
        serve(f"k{number}")
    serve("k0")
    serve("one more")
    use = live.key_use()
    assert len(use) == MAX_NAMES
    assert use["k0"]["requests"] == 2
    assert "k1" not in use


# The end


def test_who_watches_is_told_of_the_end_once(live: Live) -> None:
    told: list[str] = []
    live.until_close("one", lambda: told.append("one"))
    live.until_close("two", lambda: told.append("two"))
    live.leave("two")
    live.close()
    live.close()
    assert told == ["one"]
    assert live.closed


def test_a_description_needs_nothing_but_the_request(live: Live) -> None:
    """It is what `latest` tells, so that whoever keeps one can describe it."""
    underway = Underway(Asking(UNARY), 0.0)
    live.end(underway, record(), 3)
    assert describe_finished(live.finished[0]) == live.latest()[0]
