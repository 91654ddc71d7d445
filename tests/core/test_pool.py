"""The pool: leases that come back once, rests per account and model, and the one right error when nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.classify import MAX_COOLDOWN, SHORT_DELAY, UNSTATED_DELAY, Fault, Verdict
from agm.core.exclusions import Cause, Exclusion
from agm.core.models import Patterns
from agm.core.pool import MAX_RESTS, REFUSED_MODELS, Pool
from agm.core.request import Account
from agm.core.rests import BUSY_WAIT
from core.cuts import unhurried
from core.hands import Hands

GENERATE = "generateContent"


def account(name: str = "a", kind: Any = "api-key", **fields: Any) -> Account:
    return Account(name, kind, ("https://upstream",), **fields)


def exclusion(pool: Pool, model: str = "m", method: str = GENERATE) -> Exclusion | None:
    """Why the only account is not a candidate; None if it is."""
    ready, excluded = pool.candidates(model, method), pool.excluded(model, method)
    assert len(ready) + len(excluded) == 1
    return excluded[0] if excluded else None


def cause(pool: Pool, model: str = "m", method: str = GENERATE) -> Cause | None:
    found = exclusion(pool, model, method)
    return None if found is None else found.cause


# -- Candidates --------------------------------------------------------------------------------------


def test_accounts_are_candidates_in_the_order_of_the_configuration(hands: Hands) -> None:
    """Each account is a candidate, or has a reason not to be."""
    a, b, c = account("a"), account("b", "code-assist"), account("c", models=Patterns(["gemini-*"]))
    pool = Pool([a, b, c], hands)
    assert len(pool) == 3
    assert pool.accounts == (a, b, c)
    assert pool.candidates("gemini-1", GENERATE) == [a, b, c]
    assert pool.excluded("gemini-1", GENERATE) == []
    assert pool.candidates("other", "embedContent") == [a]
    assert [(e.account, e.cause, e.reason, e.wait) for e in pool.excluded("other", "embedContent")] == [
        (b, Cause.METHOD, "code-assist accounts have no embedContent", None),
        (c, Cause.MODEL, "its models do not include other", None),
    ]


def test_an_account_is_busy_at_its_limit_and_not_before(hands: Hands) -> None:
    """The wait is a guess, and said to be short."""
    pool = Pool([account(max_concurrency=2)], hands)
    (only,) = pool.accounts
    first = pool.lease(only, "m")
    assert cause(pool) is None
    with pool.lease(only, "m"):
        assert exclusion(pool) == Exclusion(only, Cause.BUSY, "it serves 2 requests", BUSY_WAIT)
    assert cause(pool) is None
    first.release()


# -- Leases ------------------------------------------------------------------------------------------


def test_a_lease_is_given_back_exactly_once(hands: Hands) -> None:
    """By release or by the end of a block, however often."""
    a, b = account("a"), account("b")
    pool = Pool([a, b], hands)
    lease, other = pool.lease(a, "m"), pool.lease(a, "m")
    assert lease.account is a
    assert (pool.load(a), pool.load(b), dict(pool.loads())) == (2, 0, {"a": 2, "b": 0})
    lease.release()
    lease.release()
    assert pool.load(a) == 1
    with other as entered:
        assert entered is other
        other.release()
        assert pool.load(a) == 0
    assert pool.load(a) == 0


def test_a_lease_is_given_back_when_the_block_fails(hands: Hands) -> None:
    """And the error goes on."""
    pool = Pool([account()], hands)
    with pytest.raises(ZeroDivisionError), pool.lease(pool.accounts[0], "m"):
        raise ZeroDivisionError
    assert pool.load(pool.accounts[0]) == 0


@unhurried
@given(st.lists(st.integers(0, 5)))
def test_the_load_is_the_number_of_leases_out(steps: list[int]) -> None:
    """Whatever the order of taking and giving back, also twice."""
    pool = Pool([account()], Hands())
    (only,) = pool.accounts
    leases = [pool.lease(only, "m") for _ in range(6)]
    for step in steps:
        leases[step].release()
    assert pool.load(only) == 6 - len(set(steps))


# -- Rests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "expected", "wait"),
    [
        (Verdict(Fault.RATE, "R", 30.0), Cause.RESTING, 30.0),
        (Verdict(Fault.RATE, "R", SHORT_DELAY + 0.1), Cause.RESTING, SHORT_DELAY + 0.1),
        (Verdict(Fault.RATE, "R", None), Cause.RESTING, UNSTATED_DELAY),
        (Verdict(Fault.QUOTA, "R", 3600.0), Cause.RESTING, 3600.0),
        (Verdict(Fault.QUOTA, "R", 1.0), Cause.RESTING, 1.0),
        (Verdict(Fault.QUOTA, "R", None), Cause.RESTING, UNSTATED_DELAY),
        (Verdict(Fault.NO_MODEL, "R"), Cause.MODEL, MAX_COOLDOWN),
        (Verdict(Fault.FORBIDDEN, "R"), Cause.DISABLED, None),
        (Verdict(Fault.CREDENTIAL, "R"), Cause.DISABLED, None),
    ],
)
def test_a_failure_rests_the_account_for_its_model(
    hands: Hands, verdict: Verdict, expected: Cause, wait: float | None
) -> None:
    """For that model only, and that account only, until the stated time."""
    a, b = account("a"), account("b")
    pool = Pool([a, b], hands)
    pool.failed(a, "m", verdict)
    (found,) = pool.excluded("m", GENERATE)
    assert pool.candidates("m", GENERATE) == [b]
    assert (found.account, found.cause) == (a, expected)
    assert found.wait == (None if wait is None else pytest.approx(wait))
    assert found.reason.endswith(", for m")
    assert "R" in found.reason
    assert pool.candidates("n", GENERATE) == [a, b]
    hands.now += 1e6 if wait is None else wait - 0.01
    assert pool.candidates("m", GENERATE) == [b]
    hands.now += 0.02
    assert pool.candidates("m", GENERATE) == ([b] if wait is None else [a, b])


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Fault.RATE, "R", SHORT_DELAY),
        Verdict(Fault.RATE, "R", 0.0),
        Verdict(Fault.CAPACITY, "R", 60.0),
        Verdict(Fault.ENDPOINT, "R", 60.0),
        Verdict(Fault.FINAL, "R"),
    ],
)
def test_a_failure_that_is_not_the_accounts_leaves_it_alone(hands: Hands, verdict: Verdict) -> None:
    """A short wait is waited out; capacity, endpoints and clients' mistakes are nobody's account."""
    pool = Pool([account()], hands)
    pool.failed(pool.accounts[0], "m", verdict)
    assert cause(pool) is None


def test_a_success_ends_the_rest_of_its_model(hands: Hands) -> None:
    """And of no other."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    for model in ("m", "n"):
        pool.failed(only, model, Verdict(Fault.QUOTA, "R", 100.0))
    pool.succeeded(only, "m")
    pool.succeeded(only, "unheard-of")
    assert (cause(pool, "m"), cause(pool, "n")) == (None, Cause.RESTING)


def test_a_credential_that_is_refused_for_several_models_is_refused_as_a_whole(hands: Hands) -> None:
    """One model is not yet the account: Google refuses single calls of good credentials now and then."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    refused = Verdict(Fault.CREDENTIAL, "ACCESS_TOKEN_EXPIRED")
    for _ in range(REFUSED_MODELS + 1):
        pool.failed(only, "m0", refused)
    assert cause(pool, "other") is None
    for n in range(1, REFUSED_MODELS):
        pool.failed(only, f"m{n}", refused)
    reason = "its credential is refused (ACCESS_TOKEN_EXPIRED)"
    assert exclusion(pool, "other") == Exclusion(only, Cause.DISABLED, reason)


def test_a_success_in_between_speaks_for_the_credential(hands: Hands) -> None:
    """The count of refused models starts anew."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    pool.failed(only, "m", Verdict(Fault.CREDENTIAL, "R"))
    pool.succeeded(only, "fine")
    pool.failed(only, "n", Verdict(Fault.CREDENTIAL, "R"))
    assert cause(pool, "fine") is None


@pytest.mark.parametrize(
    ("first", "second", "wait"),
    [
        (Verdict(Fault.QUOTA, "DAY", 3600.0), Verdict(Fault.RATE, "MINUTE", 10.0), 3600.0),
        (Verdict(Fault.RATE, "MINUTE", 10.0), Verdict(Fault.QUOTA, "DAY", 3600.0), 3600.0),
        (Verdict(Fault.FORBIDDEN, "DISABLED"), Verdict(Fault.QUOTA, "DAY", 3600.0), None),
        (Verdict(Fault.QUOTA, "DAY", 3600.0), Verdict(Fault.FORBIDDEN, "DISABLED"), None),
    ],
)
def test_of_several_failures_in_flight_the_worst_counts(
    hands: Hands, first: Verdict, second: Verdict, wait: float | None
) -> None:
    """In whichever order their answers come."""
    pool = Pool([account()], hands)
    for verdict in (first, second):
        pool.failed(pool.accounts[0], "m", verdict)
    found = exclusion(pool)
    assert found is not None
    assert found.wait == wait
    assert found.reason.startswith(("DAY", "DISABLED"))


def test_a_rest_that_is_over_does_not_outlast_a_shorter_new_one(hands: Hands) -> None:
    """What is worse is told by when it ends, not by how long it takes."""
    pool = Pool([account()], hands)
    pool.failed(pool.accounts[0], "m", Verdict(Fault.QUOTA, "OLD", 3600.0))
    hands.now += 3601
    pool.failed(pool.accounts[0], "m", Verdict(Fault.RATE, "NEW", 10.0))
    found = exclusion(pool)
    assert found is not None
    assert found.wait == 10.0


def test_an_account_is_disabled_until_a_person_acts(hands: Hands) -> None:
    """For every model, whatever time goes by."""
    pool = Pool([account()], hands)
    pool.disable(pool.accounts[0], "its refresh token was revoked")
    hands.now += 1e9
    assert exclusion(pool) == Exclusion(pool.accounts[0], Cause.DISABLED, "its refresh token was revoked")


@pytest.mark.parametrize("fault", [Fault.NO_MODEL, Fault.FORBIDDEN])
def test_names_that_clients_invent_do_not_fill_the_memory(hands: Hands, fault: Fault) -> None:
    """Rests that are over go first, then the oldest."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    for n in range(3 * MAX_RESTS):
        pool.failed(only, f"m{n}", Verdict(fault, "R"))
    assert len(pool._members["a"].rests) == MAX_RESTS
    assert cause(pool, f"m{3 * MAX_RESTS - 1}") is not None
    assert cause(pool, "m0") is None
    hands.now += 2 * MAX_COOLDOWN
    pool.failed(only, "last", Verdict(Fault.QUOTA, "R", 10.0))
    assert len(pool._members["a"].rests) == (1 if fault is Fault.NO_MODEL else MAX_RESTS)
    assert cause(pool, "last") is Cause.RESTING


# -- Other accounts ----------------------------------------------------------------------------------


def test_accounts_are_replaced_while_requests_are_served(hands: Hands) -> None:
    """What is known of the unchanged ones stays; the others start anew, and what comes late of them is nobody's."""
    a, b, c = account("a"), account("b"), account("c")
    pool = Pool([a, b, c], hands)
    leases = [pool.lease(each, "m") for each in (a, b, c)]
    for each in (a, b, c):
        pool.failed(each, "m", Verdict(Fault.QUOTA, "R", 60.0))
    new_a, new_b, d = account("a"), account("b"), account("d")
    pool.replace([d, new_a, new_b], keep={"a", "gone"})
    assert pool.accounts == (d, new_a, new_b)
    (resting,) = pool.excluded("m", GENERATE)
    assert pool.candidates("m", GENERATE) == [d, new_b]
    assert resting.account is new_a
    assert dict(pool.loads()) == {"d": 0, "a": 1, "b": 0}
    pool.failed(c, "m", Verdict(Fault.QUOTA, "R", 60.0))
    pool.succeeded(c, "m")
    pool.disable(c, "x")
    for lease in leases:
        lease.release()
    assert dict(pool.loads()) == {"d": 0, "a": 0, "b": 0}
