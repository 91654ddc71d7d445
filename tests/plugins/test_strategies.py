"""The strategies: who serves, what is remembered, and that explaining changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from agm.config import parse
from agm.core.pool.candidates import AccountOrder, Candidates, Ready
from agm.core.request import Account
from agm.plugins.builtin.strategies import CROWDED, Strategies
from agm.testing.conformance import build_request


def account(name: str, priority: int = 0) -> Account:
    return Account(name, "api-key", ("https://upstream",), priority=priority)


ACCOUNTS = [account(name) for name in "abcd"]


class Choosing:
    """A strategy over some accounts, with loads that a test sets."""

    def __init__(self, strategy: str, accounts: Any = ACCOUNTS) -> None:
        self.accounts, self.loads = accounts, Counter[str]()
        roll = AccountOrder.of(accounts)
        self.ready = Ready(roll, [True] * len(roll.accounts))
        self.strategies = Strategies()
        self.strategies.agm_configure(parse(f'[pool]\nstrategy = "{strategy}"\n', environ={}))

    def pick(self, text: str = "hi", *without: str, explaining: bool = False, model: str = "m") -> str:
        left = Candidates(self.ready, without=without)
        request = build_request(text=text, explaining=explaining, model=model)
        return self.strategies.agm_select_account(left, request, self.loads).account.name


def test_round_robin_passes_nobody_over_whoever_comes_and_goes() -> None:
    """The next after the last, for each model."""
    it = Choosing("round-robin")
    assert [it.pick() for _ in range(5)] == ["a", "b", "c", "d", "a"]
    assert [it.pick("hi", "b"), it.pick("hi", "c"), it.pick(), it.pick(model="n")] == ["c", "d", "a", "a"]


def test_priority_takes_turns_among_the_lowest_numbers() -> None:
    """And the next number when they are gone."""
    it = Choosing("priority", [account("a", 5), account("b", -1), account("c", -1), account("d", 5)])
    assert [it.pick() for _ in range(4)] == ["b", "c", "b", "c"]
    assert [it.pick("hi", "b"), it.pick("hi", "b", "c"), it.pick("hi", "b", "c")] == ["c", "a", "d"]


def test_least_loaded_never_takes_the_fuller_of_two_and_spreads() -> None:
    """Of two accounts that is exact; of many the fullest is never chosen, and the spread is narrow."""
    it = Choosing("least-loaded", ACCOUNTS[:2])
    it.loads["a"] = 1
    assert {it.pick() for _ in range(10)} == {"b"}
    many = Choosing("least-loaded", [account(f"a{n}") for n in range(50)])
    for _ in range(1000):
        many.loads[many.pick()] += 1
    assert len(many.loads) == 50
    assert max(many.loads.values()) - min(many.loads.values()) <= 3


def test_a_conversation_stays_at_home_until_home_is_clearly_busier() -> None:
    """By four requests and twice as many; then it has moved, and does not move back."""
    it = Choosing("sticky", ACCOUNTS[:2])
    home = it.pick("one")
    other = {"a": "b", "b": "a"}[home]
    assert [it.pick("one") for _ in range(3)] == [home] * 3
    it.loads.update({home: CROWDED - 1})
    assert it.pick("one") == home
    it.loads.update({home: CROWDED + 1, other: CROWDED + 1})
    assert it.pick("one") == home
    it.loads = Counter({home: 2 * CROWDED, other: 1})
    assert it.pick("one") == other
    it.loads.clear()
    assert it.pick("one") == other


def test_a_conversation_leaves_a_home_that_is_no_candidate_and_stays_away() -> None:
    """Its cache is warm where it went."""
    it = Choosing("sticky")
    home = it.pick("one")
    moved = it.pick("one", home)
    assert moved != home
    assert it.pick("one") == moved


@pytest.mark.parametrize("strategy", ["sticky", "round-robin", "least-loaded", "priority"])
def test_what_is_explained_is_what_happens_next(strategy: str) -> None:
    """However often it is explained before."""
    it = Choosing(strategy)
    for n in range(20):
        explained = {it.pick(str(n % 7), explaining=True) for _ in range(3)}
        picked = it.pick(str(n % 7))
        assert explained == {picked}
        it.loads[picked] += n % 3


def test_plain_lists_are_chosen_from_as_well() -> None:
    """A plugin's wrapper may hand on what it made."""
    it = Choosing("round-robin")
    request = build_request()
    picked = [it.strategies.agm_select_account(ACCOUNTS[1:], request, {}).account.name for _ in range(4)]
    assert picked == ["b", "c", "d", "b"]


def test_every_process_sends_a_new_conversation_to_the_same_account() -> None:
    """Whatever each has served before, and in whichever order its configuration has the accounts."""
    one, other = Choosing("sticky"), Choosing("sticky", ACCOUNTS[::-1])
    for n in range(50):
        other.pick(f"another {n}")
    assert [one.pick(f"{n}") for n in range(100)] == [other.pick(f"{n}") for n in range(100)]


@pytest.mark.parametrize("size", [5, 300])
def test_new_conversations_are_spread_and_only_those_of_an_account_that_is_away_go_elsewhere(size: int) -> None:
    accounts = [account(f"a{n}") for n in range(size)]
    everybody, away = Choosing("sticky", accounts), Choosing("sticky", accounts)
    texts = [f"conversation {n}" for n in range(40 * size)]
    homes = [everybody.pick(text) for text in texts]
    shares = Counter(homes)
    assert len(shares) == size
    assert max(shares.values()) < 3 * len(texts) / size
    found = [away.pick(text, "a3") for text in texts]
    assert {was for was, now in zip(homes, found, strict=True) if was != now} == {"a3"}
    assert len({now for was, now in zip(homes, found, strict=True) if was == "a3"}) > min(size, 40) / 5


def test_a_crowd_of_one_conversation_spreads_over_more_than_two_accounts() -> None:
    """A thousand requests with the same first turn are a batch, not a person."""
    it = Choosing("sticky", [account(f"a{n}") for n in range(10)])
    for _ in range(200):
        it.loads[it.pick("the same")] += 1
    assert len(it.loads) == 10
