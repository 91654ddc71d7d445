"""How accounts and endpoints come back: probes after rests, breakers, quota notes, and the line of those who wait."""

from __future__ import annotations

from typing import Any

import pytest

from agm.core.classify import MAX_COOLDOWN, Fault, Verdict
from agm.core.pool.breaker import OPEN_SECONDS, Endpoints, Trouble
from agm.core.pool.candidates import Candidates
from agm.core.pool.cooldown import BUSY_WAIT, FORGET
from agm.core.pool.exclusions import Cause, nothing_left
from agm.core.pool.lease import Lease
from agm.core.pool.pool import MAX_NOTE_AGE, Pool
from agm.core.request import Account
from tests.core.hands import Hands

GENERATE = "generateContent"
LIMITED = Verdict(Fault.RATE, "R", 10.0)


def account(name: str = "a", *endpoints: str, **fields: Any) -> Account:
    return Account(name, "api-key", endpoints or ("https://upstream",), **fields)


def cause(pool: Pool, model: str = "m") -> Cause | None:
    found = pool.excluded(model, GENERATE)
    assert len(found) + len(pool.candidates(model, GENERATE)) == len(pool)
    return found[0].cause if found else None


def rested(pool: Pool, hands: Hands) -> Lease:
    """The probe of the first account after a rest of ten seconds."""
    only = pool.accounts[0]
    pool.failed(only, "m", LIMITED)
    hands.now += 10
    return pool.lease(only, "m")


# -- Probes ------------------------------------------------------------------------------------------


def test_one_request_tries_an_account_after_its_rest(hands: Hands) -> None:
    """Nobody else gets it for that model meanwhile; for others it is as it was."""
    pool = Pool([account()], hands)
    probe = rested(pool, hands)
    assert probe.probe
    assert (cause(pool), cause(pool, "n")) == (Cause.PROBING, None)
    assert pool.excluded("m", GENERATE)[0].wait == BUSY_WAIT
    assert not pool.lease(pool.accounts[0], "n").probe


def test_a_probe_that_succeeds_ends_it(hands: Hands) -> None:
    """And the next failure rests for as long as is stated, as if nothing had been."""
    pool = Pool([account()], hands)
    with rested(pool, hands) as probe:
        pool.succeeded(probe.account, "m", probe)
    assert cause(pool) is None
    pool.failed(probe.account, "m", LIMITED)
    assert pool.excluded("m", GENERATE)[0].wait == 10


def test_each_probe_that_fails_doubles_the_rest_up_to_an_hour(hands: Hands) -> None:
    """From the delay that was stated last."""
    pool = Pool([account()], hands)
    waits = []
    probe = rested(pool, hands)
    for _ in range(10):
        pool.failed(probe.account, "m", LIMITED, probe)
        probe.release()
        (found,) = pool.excluded("m", GENERATE)
        assert found.wait is not None
        waits.append(found.wait)
        hands.now += found.wait
        probe = pool.lease(probe.account, "m")
    assert waits == [20, 40, 80, 160, 320, 640, 1280, 2560, MAX_COOLDOWN, MAX_COOLDOWN]


def test_a_rest_of_long_ago_does_not_lengthen_the_next(hands: Hands) -> None:
    """Failures are forgotten."""
    pool = Pool([account()], hands)
    pool.failed(pool.accounts[0], "m", LIMITED)
    hands.now += 10 + FORGET
    with pool.lease(pool.accounts[0], "m") as probe:
        pool.failed(probe.account, "m", LIMITED, probe)
    assert pool.excluded("m", GENERATE)[0].wait == 10


@pytest.mark.parametrize("fault", [None, Fault.FINAL, Fault.CAPACITY, Fault.ENDPOINT])
def test_after_a_probe_without_a_verdict_the_next_one_tries(hands: Hands, fault: Fault | None) -> None:
    """It was cancelled, or what it met was not the account's."""
    pool = Pool([account()], hands)
    with rested(pool, hands) as probe:
        if fault is not None:
            pool.failed(probe.account, "m", Verdict(fault, "R"), probe)
    assert cause(pool) is None
    assert pool.lease(probe.account, "m").probe


def test_a_short_delay_is_no_recovery(hands: Hands) -> None:
    """A probe that is told to wait a second has been refused."""
    pool = Pool([account()], hands)
    with rested(pool, hands) as probe:
        pool.failed(probe.account, "m", Verdict(Fault.RATE, "R", 0.5), probe)
    assert pool.excluded("m", GENERATE)[0].wait == 2.0


def test_a_success_of_before_the_rest_says_nothing_about_it(hands: Hands) -> None:
    """Its answer began before the quota was used up."""
    pool = Pool([account()], hands)
    early = pool.lease(pool.accounts[0], "m")
    pool.failed(pool.accounts[0], "m", LIMITED)
    pool.succeeded(early.account, "m", early)
    assert cause(pool) is Cause.RESTING


def test_news_of_an_account_that_was_changed_meanwhile_is_not_the_new_ones(hands: Hands) -> None:
    """The key that was refused is not in use any more."""
    pool = Pool([account()], hands)
    old = pool.lease(pool.accounts[0], "m")
    pool.replace([account()], keep=())
    pool.failed(old.account, "m", Verdict(Fault.CREDENTIAL, "R"), old)
    pool.disable(old.account, "R", old)
    old.release()
    assert cause(pool) is None
    assert pool.load(pool.accounts[0]) == 0


# -- Quotas ------------------------------------------------------------------------------------------


def test_the_last_part_of_a_quota_is_left_alone(hands: Hands) -> None:
    """Until the reset, or until more is left."""
    a = account(reserve=0.1)
    pool = Pool([a], hands)
    pool.note_quota(a, "m", 0.11, hands.now + 60)
    assert cause(pool) is None
    pool.note_quota(a, "m", 0.1, hands.now + 60)
    assert (cause(pool), cause(pool, "n")) == (Cause.RESERVE, None)
    assert pool.excluded("m", GENERATE)[0].wait == 60
    hands.now += 60
    assert cause(pool) is None
    pool.note_quota(a, "m", 0.0, hands.now + 1e6)
    assert pool.excluded("m", GENERATE)[0].wait == MAX_NOTE_AGE
    pool.note_quota(a, "m", 1.0, hands.now + 1e6)
    assert cause(pool) is None
    pool.note_quota(account("gone"), "m", 0.0, hands.now)


# -- Endpoints ---------------------------------------------------------------------------------------


def fail(pool: Pool, url: str, trouble: Trouble, times: int, *models: str) -> None:
    for n in range(times):
        pool.endpoint_failed(url, models[n % len(models)], trouble)


def test_an_endpoint_that_cannot_be_reached_is_left_alone_and_then_tried_by_one(hands: Hands) -> None:
    """The account goes on with its other endpoints, and rests when it has none."""
    pool = Pool([account("a", "https://x", "https://y"), account("b", "https://x")], hands)
    a, b = pool.accounts
    fail(pool, "https://x/prefix", Trouble.UNREACHED, 5, "m")
    assert pool.candidates("m", GENERATE) == [a]
    (found,) = pool.excluded("m", GENERATE)
    assert (found.cause, found.wait) == (Cause.ENDPOINT, OPEN_SECONDS)
    assert pool.lease(a, "m").next_endpoint() == 1
    hands.now += OPEN_SECONDS
    probe = pool.lease(b, "n")
    assert probe.next_endpoint() == 0
    assert pool.candidates("m", GENERATE) == [a]
    assert pool.lease(a, "m").next_endpoint() == 1
    pool.endpoint_failed("https://x", "n", Trouble.UNREACHED, probe)
    probe.release()
    assert pool.excluded("m", GENERATE)[0].wait == 2 * OPEN_SECONDS
    hands.now += 2 * OPEN_SECONDS
    cancelled = pool.lease(b, "m")
    cancelled.next_endpoint()
    cancelled.release()
    with pool.lease(b, "m") as probe:
        probe.next_endpoint()
        pool.endpoint_answered("https://x", "m", good=True)
    assert pool.candidates("m", GENERATE) == [a, b]


def test_models_that_always_fail_never_take_an_endpoint_from_the_others(hands: Hands) -> None:
    """Google's own 5xx, of however many models, however often."""
    pool = Pool([account()], hands)
    fail(pool, "https://upstream", Trouble.STATED, 500, "emu-500", "emu-503", "emu-504", "emu-500-x")
    assert all(cause(pool, model) is None for model in ("m", "emu-500"))


def test_odd_answers_put_an_endpoint_in_doubt_and_open_nothing(hands: Hands) -> None:
    """Names of models are the clients' to invent: only the gateway's own question can open its breaker."""
    pool = Pool([account()], hands)
    doubts = [pool.endpoint_failed("https://upstream", f"emu-close-{n}", Trouble.ODD) for n in range(20)]
    assert doubts == [False] * 4 + [True] * 16
    assert cause(pool) is None
    pool.endpoint_answered("https://upstream", "m", good=False)
    assert not pool.endpoint_failed("https://upstream", "m", Trouble.ODD)
    pool.confirm_endpoint_failure("https://upstream")
    (found,) = pool.excluded("m", GENERATE)
    assert (found.cause, found.wait) == (Cause.ENDPOINT, OPEN_SECONDS)


def test_an_odd_answer_to_the_probe_of_an_endpoint_is_not_believed_either(hands: Hands) -> None:
    """The next request may try; confirmed, the pause is twice as long."""
    pool = Pool([account()], hands)
    (only,) = pool.accounts
    pool.confirm_endpoint_failure("https://upstream")
    hands.now += OPEN_SECONDS
    with pool.lease(only, "m") as probe:
        probe.next_endpoint()
        assert cause(pool) is Cause.ENDPOINT
        assert pool.endpoint_failed("https://upstream", "m", Trouble.ODD, probe)
    assert cause(pool) is None
    pool.confirm_endpoint_failure("https://upstream")
    assert pool.excluded("m", GENERATE)[0].wait == 2 * OPEN_SECONDS


def test_failures_with_answers_in_between_or_far_apart_open_nothing(hands: Hands) -> None:
    """Counts are taken back, and halve with time."""
    pool = Pool([account()], hands)
    for _ in range(20):
        fail(pool, "https://upstream", Trouble.UNREACHED, 4, "m")
        pool.endpoint_answered("https://upstream", "m", good=False)
    for _ in range(20):
        fail(pool, "https://upstream", Trouble.UNREACHED, 1, "m")
        hands.now += 30
    assert cause(pool) is None


def test_a_model_that_fails_at_an_endpoint_is_asked_of_another_first(hands: Hands) -> None:
    """While other models keep to the order of the configuration."""
    pool = Pool([account("a", "https://x", "https://y")], hands)
    fail(pool, "https://x", Trouble.STATED, 5, "m")
    for model, order in (("m", [1, 0, None]), ("n", [0, 1, None])):
        with pool.lease(pool.accounts[0], model) as lease:
            assert [lease.next_endpoint() for _ in range(3)] == order
            lease.start_over()
            assert lease.next_endpoint() == order[0]


def test_what_failed_is_remembered_of_so_many_models_only() -> None:
    """Model names are the clients' to invent."""
    endpoints = Endpoints()
    for n in range(3000):
        endpoints.failed("https://x", f"m{n}", Trouble.STATED, 0.0)
    assert len(endpoints._pairs) == 1000


def test_when_all_endpoints_fail_the_client_is_told_503(hands: Hands) -> None:
    """It is nobody's quota."""
    pool = Pool([account("a"), account("b")], hands)
    fail(pool, "https://upstream", Trouble.UNREACHED, 5, "m")
    error = nothing_left("m", GENERATE, "v1beta", pool.excluded("m", GENERATE))
    assert (error.status, error.error_reason, error.retry_after) == (503, "ENDPOINTS_FAIL", OPEN_SECONDS)


# -- Waiting -----------------------------------------------------------------------------------------


def line(pool: Pool, model: str, served: list[str], name: str) -> Any:
    def offer() -> bool:
        found = pool.candidates(model, GENERATE)
        if found:
            pool.lease(found[0], model)
            served.append(name)
        return bool(found)

    return pool.wait(model, GENERATE, offer)


def test_those_who_wait_are_served_in_the_order_in_which_they_came(hands: Hands) -> None:
    """By what is given back, whatever their models, and but for those who left."""
    pool = Pool([account(max_concurrency=1)], hands)
    served: list[str] = []
    lease = pool.lease(pool.accounts[0], "m")
    tickets = [line(pool, model, served, name) for name, model in (("1", "m"), ("2", "n"), ("3", "m"))]
    assert pool.soonest("m", GENERATE) == 0
    tickets[0].leave()
    tickets[0].leave()
    lease.release()
    assert served == ["2"]
    assert (pool.waiting("m"), pool.waiting("n")) == (1, 0)


def test_a_recovery_and_a_reload_serve_those_who_wait(hands: Hands) -> None:
    """A rest that is over lets one through, a new account another."""
    pool = Pool([account()], hands)
    pool.failed(pool.accounts[0], "m", LIMITED)
    served: list[str] = []
    for name in "123":
        line(pool, "m", served, name)
    assert pool.soonest("m", GENERATE) == 10
    hands.now += 10
    pool.wake("m")
    assert served == ["1"]
    pool.replace([account(), account("b", max_concurrency=1)], keep={"a"})
    assert served == ["1", "2"]


def test_bad_news_is_told_to_all_who_wait(hands: Hands) -> None:
    """They can give up at once, and nobody is asked without need."""
    pool = Pool([account(max_concurrency=1)], hands)
    lease = pool.lease(pool.accounts[0], "m")
    asked: list[int] = []
    for n in range(2):
        pool.wait("m", GENERATE, lambda n=n: bool(asked.append(n)))  # type: ignore[misc]
    pool.wake("m")
    assert asked == []
    pool.disable(lease.account, "revoked")
    assert asked == [0, 1]
    assert pool.soonest("m", GENERATE) is None


# -- Candidates --------------------------------------------------------------------------------------


def test_candidates_are_a_sequence() -> None:
    """By priority, then in the order given; with some left out as if they had never been."""
    accounts = [account(n, priority=p) for n, p in (("a", 1), ("b", 0), ("c", 1), ("d", 0), ("e", 2))]
    a, b, c, d, e = accounts
    whole = Candidates.of(accounts)
    assert whole == [b, d, a, c, e]
    assert (whole[0], whole[-1], whole[1:3], len(whole), whole.index(c)) == (b, e, [d, a], 5, 3)
    assert whole.first_tier() == [b, d]
    assert [whole.in_turn(n) for n in (None, "b", "c", "e", "gone")] == [b, d, e, b, b]
    assert account("a") not in whole
    assert "a" not in whole
    with pytest.raises(IndexError):
        whole[5]
    with pytest.raises(ValueError, match="not a candidate"):
        whole.index(account("a"))
    some = Candidates(whole._ready, without={"b", "c", "nobody"})
    assert some == [d, a, e]
    assert list(reversed(some)) == [e, a, d]
    assert [some.named(n) for n in ("b", "a", None)] == [None, a, None]
    assert [some.in_turn(n) for n in ("b", "d", "c", "e")] == [d, a, e, d]
    assert [some.index(x) for x in some] == [0, 1, 2]
    assert some.first_tier() == [d]
    assert some.first_tier().named("a") is None
    assert list(Candidates.of([])) == []
    assert repr(some) == "<Candidates ['d', 'a', 'e']>"
    assert whole != some
    assert whole != 5
