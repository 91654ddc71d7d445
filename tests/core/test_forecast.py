"""What comes next: when accounts are back, and at which pace the others are used up."""

from __future__ import annotations

import pytest

from agm.core.classify import Fault, Verdict
from agm.core.forecast import LEAST, DayQuotas, Outlook, all_out, model_document, out_in, returns
from agm.core.pool.cooldown import Quota
from agm.core.pool.exclusions import Cause, Exclusion, nothing_left
from agm.core.request import Account, AttemptRecord

#: 2026-12-01, 13:00 UTC; Google's day ends 19 hours later, at midnight in California.
NOON = 1_796_130_000.0
DAY_ENDS = NOON + 19 * 3600


def attempt(account: str = "a", model: str = "m", verdict: Verdict | None = None) -> AttemptRecord:
    return AttemptRecord("r", 1, account, "", "https://e", model, NOON, 0.1, 0.1, 200, verdict)


OUT = Verdict(Fault.QUOTA, "DAILY_QUOTA", 3600.0)


def test_a_daily_quota_is_what_was_served_when_it_was_used_up() -> None:
    """On the next day the same number is its end, at that day's pace; what is served beyond shows it to be wrong."""
    now = [NOON]
    quotas = DayQuotas(lambda: now[0])
    quotas.note([attempt()] * 100, now[0])
    assert quotas.out_in("a", "m") is None
    quotas.note([attempt(verdict=OUT)], now[0])
    now[0] = DAY_ENDS + 60
    quotas.note([attempt(), attempt("b")], now[0])
    assert quotas.models() == [("m", 2)]
    now[0] += 3600
    quotas.note([attempt()] * 24, now[0])
    # 25 in an hour: the other 75 last for three hours more
    assert quotas.out_in("a", "m") == pytest.approx(3 * 3600)
    assert quotas.out_in("b", "m") is None
    quotas.note([attempt()] * 76, now[0])
    assert quotas.out_in("a", "m") is None


def test_a_pace_that_lasts_until_the_day_ends_is_no_end() -> None:
    """The quota begins anew before it is used up."""
    now = [NOON]
    quotas = DayQuotas(lambda: now[0])
    quotas.note([*[attempt()] * 1000, attempt(verdict=OUT)], now[0])
    now[0] = DAY_ENDS + 60
    quotas.note([attempt()], now[0])
    now[0] += 3600
    quotas.note([attempt()], now[0])
    assert quotas.out_in("a", "m") is None


def test_what_is_known_of_a_day_survives_a_restart() -> None:
    """Today's counts go on; of another day only what was all of it is kept."""
    now = [NOON]
    quotas = DayQuotas(lambda: now[0])
    quotas.note([*[attempt()] * 5, attempt(verdict=OUT), attempt("b")], now[0])
    again = DayQuotas(lambda: now[0])
    again.load(*quotas.dump())
    assert again.dump() == quotas.dump()
    now[0] = DAY_ENDS + 1
    later = DayQuotas(lambda: now[0])
    later.load(*quotas.dump())
    assert later.models() == []
    assert later.dump()[3] == [("a", "m", 5)]


def test_a_pace_needs_some_minutes() -> None:
    """The first requests of a day say nothing of the rest of it."""
    assert out_in(10, 100, LEAST - 1) is None
    assert out_in(10, 100, LEAST) == pytest.approx(9 * LEAST)
    assert out_in(0, 100, LEAST) is None
    assert out_in(200, 100, LEAST) == 0.0


def test_a_reported_quota_is_out_at_the_pace_since_it_was_whole() -> None:
    """And never after its reset."""
    quota = Quota(0.5, 5000.0, resets=10_000.0, noted=1000.0, began=0.0, was=1.0)
    assert quota.out_in(0.0, 1000.0) == pytest.approx(1000.0)
    assert quota.out_in(0.0, 1500.0) == pytest.approx(500.0)
    assert quota.out_in(0.25, 1000.0) == pytest.approx(500.0)
    assert quota.out_in(0.5, 1000.0) is None
    assert Quota(0.9, 5000.0, 2000.0, 1000.0, 0.0, 1.0).out_in(0.0, 1000.0) is None
    assert Quota(1.0, 5000.0, 9000.0, 1000.0, 0.0, 1.0).out_in(0.0, 1000.0) is None
    assert Quota(0.5, 5000.0).out_in(0.0, 1000.0) is None  # kept over a restart: nothing is known of its pace


RESTING = "resting"


@pytest.mark.parametrize(
    ("accounts", "out", "text"),
    [
        (
            [Outlook("a", out=3600.0), Outlook("b", RESTING, back=41.0)],
            None,
            "b is back in 41 s; at this pace a is out at 2026-12-01 14:00 UTC",
        ),
        (
            [Outlook("a", out=3600.0), Outlook("b", out=7200.0), Outlook("c", RESTING, back=10_800.0)],
            7200.0,
            "c is back at 2026-12-01 16:00 UTC; at this pace both are out at 2026-12-01 15:00 UTC",
        ),
        ([Outlook("a", out=60.0)], 60.0, "at this pace a is out in 60 s"),
        (
            [Outlook("a"), Outlook("b", out=60.0)],
            None,
            "at this pace b is out in 60 s",
        ),
        ([Outlook("a"), Outlook("b")], None, "2 accounts are ready, and no end is in sight"),
        ([Outlook("a", "needing manual action")], 0.0, "a is out until manual action"),
        ([], None, "there is no account for it"),
    ],
)
def test_what_comes_next_is_told_in_a_sentence(accounts: list[Outlook], out: float | None, text: str) -> None:
    """All are out when the last of those that are ready is, unless another is back before that."""
    assert all_out(accounts) == out
    found = model_document("m", accounts, NOON)
    assert found["text"] == text
    assert found["out_at"] == (None if out is None else NOON + out)


def exclusions(*waits: float | None) -> list[Exclusion]:
    return [
        Exclusion(Account(f"secret-{n}", "api-key", ("https://e",)), Cause.RESTING, "rate", wait)
        for n, wait in enumerate(waits)
    ]


def test_a_client_is_told_when_and_whom_only_where_it_may_know() -> None:
    """Times are told to all; names as the configuration says."""
    away = exclusions(7200.0, 41.0, None)
    told = returns(away, NOON, names=False)
    assert told == "2 accounts are expected back, the first in 41 s, the last at 2026-12-01 15:00 UTC. "
    assert returns(away, NOON, names=True) == "Back: secret-1 in 41 s, secret-0 at 2026-12-01 15:00 UTC. "
    assert returns(exclusions(41.0, 41.2), NOON, names=False) == "2 accounts are expected back in 41 s. "
    assert returns(away[1:], NOON, names=False) == "One account is expected back in 41 s. "
    assert returns(away[2:], NOON, names=True) == ""
    message = nothing_left("m", "generateContent", "v1beta", away, told).message
    assert message == f"No account can serve models/m now (3 cooling down). {told}Please retry in 41.000s."
