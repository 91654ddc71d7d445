"""The pool: leases that come back once, rests per account and model, and the one right error when nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agm.core.classify import MAX_COOLDOWN, SHORT_DELAY, UNSTATED_DELAY, Fault, Verdict
from agm.core.models import Patterns
from agm.core.pool.breaker import Trouble
from agm.core.pool.cooldown import ASIDE_SECONDS, BUSY_WAIT, LACKING_SECONDS
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.pool.pool import MAX_COOLDOWNS, Pool
from agm.core.request import Account
from tests.core.cuts import unhurried
from tests.core.hands import Hands

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
        (Verdict(Fault.FORBIDDEN, "R"), Cause.ASIDE, ASIDE_SECONDS),
    ],
)
def test_a_failure_rests_the_account_for_its_model(
    hands: Hands, verdict: Verdict, expected: Cause, wait: float
) -> None:
    """For that model only, and that account only, until the stated time."""
    a, b = account("a"), account("b")
    pool = Pool([a, b], hands)
    pool.failed(a, "m", verdict)
    (found,) = pool.excluded("m", GENERATE)
    assert pool.candidates("m", GENERATE) == [b]
    assert (found.account, found.cause) == (a, expected)
    assert found.wait == pytest.approx(wait)
    assert found.reason == "R, for m"
    assert pool.candidates("n", GENERATE) == [a, b]
    hands.now += wait - 0.01
    assert pool.candidates("m", GENERATE) == [b]
    hands.now += 0.02
    assert pool.candidates("m", GENERATE) == [a, b]


@pytest.mark.parametrize(
    ("verdict", "expected", "wait"),
    [
        (Verdict(Fault.BLOCKED, "BILLING", message="Pay.", link="https://pay"), Cause.ASIDE, ASIDE_SECONDS),
        (Verdict(Fault.LOCKED, "API_KEY_LEAKED", message="Leaked.", link="https://keys"), Cause.DISABLED, None),
        (Verdict(Fault.CREDENTIAL, "ACCESS_TOKEN_EXPIRED"), Cause.DISABLED, None),
    ],
)
def test_a_refusal_of_the_account_is_for_all_models(
    hands: Hands, verdict: Verdict, expected: Cause, wait: float | None
) -> None:
    """One refusal is enough; Google's words are kept; what nobody has to mend is tried again after a minute."""
    a, b = account("a"), account("b")
    pool = Pool([a, b], hands)
    pool.failed(a, "m", verdict)
    for model in ("m", "n"):
        assert pool.candidates(model, GENERATE) == [b]
        (found,) = pool.excluded(model, GENERATE)
        assert (found.cause, found.wait, found.message, found.link) == (expected, wait, verdict.message, verdict.link)
        assert verdict.reason in found.reason
    hands.now += 1e6 if wait is None else wait
    assert pool.candidates("n", GENERATE) == ([b] if wait is None else [a, b])


def test_an_account_that_was_set_aside_is_tried_by_one_request_for_whatever_model(hands: Hands) -> None:
    """Refused again it is set aside for twice as long, up to an hour; served, it is as it was."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    blocked = Verdict(Fault.BLOCKED, "LOCATION_NOT_SUPPORTED")
    pool.failed(only, "m", blocked)
    waits = []
    for n in range(8):
        found = exclusion(pool)
        assert found is not None
        assert found.wait is not None
        waits.append(found.wait)
        hands.now += found.wait
        probe = pool.lease(only, f"m{n}")
        assert probe.probe
        assert cause(pool, "another") is Cause.PROBING
        pool.failed(only, f"m{n}", blocked, probe)
        probe.release()
    assert waits == [60, 120, 240, 480, 960, 1920, MAX_COOLDOWN, MAX_COOLDOWN]
    hands.now += MAX_COOLDOWN
    with pool.lease(only, "another") as probe:
        pool.succeeded(only, "another", probe)
    assert cause(pool) is cause(pool, "another") is None


def test_a_success_of_a_request_from_before_says_nothing(hands: Hands) -> None:
    """What was leased before the account was refused may well be answered."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    early = pool.lease(only, "n")
    pool.failed(only, "m", Verdict(Fault.LOCKED, "API_KEY_LEAKED"))
    pool.succeeded(only, "n", early)
    assert cause(pool, "n") is Cause.DISABLED


def test_a_model_is_lacked_in_its_version_and_method_and_for_minutes(hands: Hands) -> None:
    """Newer SDKs ask with v1, where some names are unknown; a chat model has no embeddings."""
    a, b = account("a"), account("b")
    pool = Pool([a, b], hands)
    with pool.lease(a, "m", GENERATE, "v1") as lease:
        pool.failed(a, "m", Verdict(Fault.NO_MODEL, "NOT_FOUND"), lease)
    assert pool.candidates("m", GENERATE, version="v1") == [b]
    (found,) = pool.excluded("m", GENERATE, "v1")
    assert (found.cause, found.wait) == (Cause.MODEL, None)
    assert pool.soonest("m", GENERATE, {"b"}, "v1") is None
    assert pool.candidates("m", GENERATE, version="v1beta") == [a, b]
    assert pool.candidates("m", "countTokens", version="v1") == [a, b]
    assert pool.candidates("n", GENERATE, version="v1") == [a, b]
    hands.now += LACKING_SECONDS / 2
    with pool.lease(b, "m", GENERATE, "v1") as lease:
        pool.failed(b, "m", Verdict(Fault.NO_MODEL, "NOT_FOUND"), lease)
    assert pool.candidates("m", GENERATE, version="v1") == []
    hands.now += LACKING_SECONDS / 2
    assert pool.candidates("m", GENERATE, version="v1") == [a]
    hands.now += LACKING_SECONDS / 2
    assert pool.candidates("m", GENERATE, version="v1") == [a, b]
    assert pool.remember() == {}


def test_an_account_is_in_doubt_once_it_has_refused_two_conversations(hands: Hands) -> None:
    """A success in between, or an answer to the gateway's own question, clears it; nothing is held meanwhile."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    assert not pool.doubt(only, "m", "one")
    assert not pool.doubt(only, "m", "one")
    assert not pool.doubt(only, "n", "two")
    assert pool.doubt(only, "m", "two")
    assert cause(pool) is None
    pool.trust(only, "m")
    assert not pool.doubt(only, "m", "three")
    pool.succeeded(only, "m")
    assert not pool.doubt(only, "m", "four")
    assert not pool.doubt(account("gone"), "m", "five")


def test_a_probe_that_is_refused_without_a_reason_is_in_doubt_at_once(hands: Hands) -> None:
    """It was refused before."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    pool.failed(only, "m", Verdict(Fault.FORBIDDEN, "PERMISSION_DENIED"))
    hands.now += ASIDE_SECONDS
    with pool.lease(only, "m") as probe:
        assert pool.doubt(only, "m", "one", probe)


@pytest.mark.parametrize("model", [None, "m"])
def test_what_is_held_against_an_account_can_be_taken_back(hands: Hands, model: str | None) -> None:
    """For one model, or all of it; that there is nothing is told, too."""
    a, b = account("a"), account("b")
    pool = Pool([a, b], hands)
    pool.failed(a, "m", Verdict(Fault.FORBIDDEN, "R"))
    pool.failed(a, "n", Verdict(Fault.QUOTA, "R", 60.0))
    with pool.lease(a, "m", GENERATE, "v1") as lease:
        pool.failed(a, "m", Verdict(Fault.NO_MODEL, "R"), lease)
    if model is None:
        pool.failed(a, "m", Verdict(Fault.LOCKED, "R"))
    assert pool.reset("a", model)
    assert pool.candidates("m", GENERATE, version="v1") == [a, b]
    assert pool.candidates("n", GENERATE) == ([a, b] if model is None else [b])
    assert not pool.reset("a", model)
    assert not pool.reset("b", model)
    with pytest.raises(KeyError):
        pool.reset("nobody", model)


def test_taking_back_an_accounts_state_closes_its_endpoints_breakers(hands: Hands) -> None:
    """Whoever mends the network need not wait for the probe."""
    a = account("a")
    pool = Pool([a], hands)
    for _ in range(6):
        pool.endpoint_failed(a.endpoints[0], "m", Trouble.UNREACHED)
    assert cause(pool) is Cause.ENDPOINT
    assert pool.reset("a")
    assert cause(pool) is None


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Fault.RATE, "R", SHORT_DELAY),
        Verdict(Fault.RATE, "R", 0.0),
        Verdict(Fault.CAPACITY, "R", 60.0),
        Verdict(Fault.ENDPOINT, "R", 60.0),
        Verdict(Fault.FINAL, "R"),
        Verdict(Fault.MISSING, "R"),
        Verdict(Fault.UNCLEAR, "R", 60.0),
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


@pytest.mark.parametrize(
    ("first", "second", "wait"),
    [
        (Verdict(Fault.QUOTA, "DAY", 3600.0), Verdict(Fault.RATE, "MINUTE", 10.0), 3600.0),
        (Verdict(Fault.RATE, "MINUTE", 10.0), Verdict(Fault.QUOTA, "DAY", 3600.0), 3600.0),
        (Verdict(Fault.LOCKED, "DISABLED"), Verdict(Fault.QUOTA, "DAY", 3600.0), None),
        (Verdict(Fault.QUOTA, "DAY", 3600.0), Verdict(Fault.LOCKED, "DISABLED"), None),
        (Verdict(Fault.BLOCKED, "ASIDE"), Verdict(Fault.QUOTA, "DAY", 3600.0), 3600.0),
        (Verdict(Fault.LOCKED, "DISABLED"), Verdict(Fault.BLOCKED, "ASIDE"), None),
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


def test_who_wants_to_know_is_told_once_that_an_account_is_disabled(hands: Hands) -> None:
    """However it comes about; one that is set aside comes back by itself, and is none."""
    told: list[tuple[str, str]] = []
    pool = Pool([account("a"), account("b")], hands)
    pool.went_off = lambda off, why: told.append((off.name, why.reason))
    a, b = pool.accounts
    pool.failed(a, "m", Verdict(Fault.BLOCKED, "BILLING_DISABLED"))
    pool.failed(a, "m", Verdict(Fault.QUOTA, "QUOTA", 60.0))
    assert told == []
    pool.failed(a, "m", Verdict(Fault.LOCKED, "API_KEY_INVALID"))
    pool.failed(a, "m", Verdict(Fault.CREDENTIAL, "UNAUTHENTICATED"))
    pool.disable(b, "its refresh token was revoked")
    pool.disable(b, "its refresh token was revoked")
    assert told == [("a", "API_KEY_INVALID"), ("b", "its refresh token was revoked")]
    pool.reset("a")
    pool.disable(a, "again")
    assert told[2:] == [("a", "again")]


def test_names_that_clients_invent_do_not_fill_the_memory(hands: Hands) -> None:
    """Rests that are over go first, then the oldest; lacks are by themselves, and push no rest out."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    pool.failed(only, "real", Verdict(Fault.QUOTA, "R", 3600.0))
    for n in range(3 * MAX_COOLDOWNS):
        with pool.lease(only, f"m{n}", GENERATE, "v1") as lease:
            pool.failed(only, f"m{n}", Verdict(Fault.NO_MODEL, "R"), lease)
            pool.doubt(only, f"m{n}", "one")
    member = pool._members["a"]
    assert len(member.lacks) == len(member.doubts) == len(pool._lacked) == MAX_COOLDOWNS
    assert pool.candidates(f"m{3 * MAX_COOLDOWNS - 1}", GENERATE, version="v1") == []
    assert pool.candidates("m0", GENERATE, version="v1") == [only]
    assert cause(pool, "real") is Cause.RESTING
    for n in range(3 * MAX_COOLDOWNS):
        pool.failed(only, f"m{n}", Verdict(Fault.FORBIDDEN, "R"))
    assert len(member.cooldowns) == MAX_COOLDOWNS
    assert cause(pool, f"m{3 * MAX_COOLDOWNS - 1}") is not None
    assert cause(pool, "m0") is None
    hands.now += ASIDE_SECONDS
    pool.failed(only, "last", Verdict(Fault.QUOTA, "R", 10.0))
    assert len(member.cooldowns) == 1
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
