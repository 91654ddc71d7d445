"""What the gateway promises while its accounts fail in every way at once, through the real processes."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from testbed import storms
from testbed.storms import Call, Outcome, Plan, Player


@pytest.mark.slow
@pytest.mark.process
def test_a_storm_costs_no_request_that_an_account_could_have_served(tmp_path: Path) -> None:
    """Nothing is sent twice, no token is fetched for nothing, and every account is given back."""
    report = storms.run(Plan(accounts=6, requests=200, clients=12), tmp_path)
    assert not report.violations, report.table()
    assert len(report.outcomes) == 200
    # and it was a storm
    assert any(call.broken for call in report.calls)
    assert {401, 403, 404, 429, 503} <= {call.status for call in report.calls}
    assert sum(call.rpc == "token" for call in report.calls) > 3


# -- The judge itself: each promise that is broken is seen -------------------------------------------

GOOD = Call(
    seq=1, time=1.0, connection=1, account="a", rpc="generateContent", number=0, status=200, sent=9, finished=True
)
SERVED, BROKEN = Outcome(0, "served"), Outcome(0, "broken")
USER = Player("a", "vertex", "user", "", (), ())


def judged(outcome: Outcome, *calls: Call) -> str:
    """The violations as one text, for calls on one connection in this order."""
    listed = [attrs.evolve(call, seq=place) for place, call in enumerate(calls)]
    return "\n".join(storms.judged([outcome], listed, [USER], [100.0]))


def test_an_answer_at_the_first_try_is_fine() -> None:
    assert judged(SERVED, GOOD) == ""


def test_an_answer_after_failures_that_say_so_is_fine() -> None:
    failed = attrs.evolve(GOOD, status=503)
    empty = attrs.evolve(GOOD, sent=0)
    assert judged(SERVED, failed, empty, GOOD) == ""


def test_a_request_that_broke_off_at_the_upstream_may_fail() -> None:
    assert judged(BROKEN, attrs.evolve(GOOD, finished=False)) == ""


@pytest.mark.parametrize(
    ("violation", "outcome", "calls"),
    [
        ("could have been served", BROKEN, [attrs.evolve(GOOD, status=503)]),
        ("could have been served", BROKEN, [GOOD]),
        ("never sent", Outcome(0, "429"), []),
        ("sent again after its first byte", SERVED, [attrs.evolve(GOOD, finished=False), GOOD]),
        ("sent again after its first byte", SERVED, [GOOD, GOOD]),
        ("leaves open what came of it", SERVED, [attrs.evolve(GOOD, sent=0, finished=False), GOOD]),
        ("looks complete, and is not", SERVED, [attrs.evolve(GOOD, finished=False)]),
        ("sent more than", SERVED, [attrs.evolve(GOOD, status=503)] * storms.MAX_ATTEMPTS + [GOOD]),
        (
            "a got 2 tokens",
            SERVED,
            [attrs.evolve(GOOD, rpc="token", number=None), attrs.evolve(GOOD, rpc="token", number=None), GOOD],
        ),
    ],
)
def test_a_broken_promise_is_seen(violation: str, outcome: Outcome, calls: list[Call]) -> None:
    assert violation in judged(outcome, *calls)


def test_only_a_connection_that_has_served_before_can_have_been_stale() -> None:
    """What closed without a byte may be sent again on a new connection then, and only then."""
    closed = attrs.evolve(GOOD, sent=0, finished=False)
    before = attrs.evolve(GOOD, number=1)
    assert "leaves open" not in judged(SERVED, before, closed, attrs.evolve(GOOD, connection=2))
    assert "leaves open" in judged(SERVED, before, closed, GOOD)
    assert "leaves open" in judged(SERVED, closed, attrs.evolve(GOOD, connection=2))


def test_a_token_for_each_expiry_is_fine() -> None:
    token = attrs.evolve(GOOD, rpc="token", number=None)
    assert judged(SERVED, token, GOOD, attrs.evolve(token, time=101.0)) == ""
