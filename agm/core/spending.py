"""
What client keys, teams, accounts and models have spent, by day and month of UTC, and the budgets that they are held to.

A request's cost is known when its answer has ended, and is added then: a request is let in as long as anything of a
budget is left, and those that are in flight may exceed it.  A request whose price is not known adds nothing to an
amount, and is counted as such.  Time is handed in, and nothing is kept on disk here.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import attrs

from agm.core.errors import TooManyRequests
from agm.core.money import dollars

Per = Literal["day", "month"]
PERS: tuple[Per, ...] = ("day", "month")
#: What budgets can be for.
OF = ("key", "team", "account")
#: Names whose spending is kept; the one that has not spent for the longest goes first.
MAX_NAMES = 100_000
#: Combinations of a key, a team, an account and a model whose sums wait to be added to those of each.
MAX_NEW = 1000
_WHO = ("key", "team", "account", "model")


@attrs.frozen
class Budget:
    """
    How much may be spent: `of` is ``key:NAME``, ``team:NAME`` or ``account:NAME``, `limit` is in US dollars.

    `warn_at` is the fraction from which on it is told; `then` says whether requests are refused once it is used up.
    """

    of: str
    per: Per
    limit: float
    warn_at: float = 0.8
    then: Literal["refuse", "warn"] = "refuse"

    @property
    def what(self) -> str:
        """Return ``key``, ``team`` or ``account``."""
        return self.of.partition(":")[0]

    @property
    def name(self) -> str:
        """The name of the key, the team or the account."""
        return self.of.partition(":")[2]


def period(per: Per, at: float) -> str:
    """Return the day or month of UTC that a time is in, as ``2026-12-01`` or ``2026-12``."""
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return moment.strftime("%Y-%m-%d" if per == "day" else "%Y-%m")


def ends(per: Per, at: float) -> float:
    """When the day or month that a time is in is over, in seconds since the epoch."""
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return (midnight + datetime.timedelta(days=1)).timestamp()
    return (midnight.replace(day=28) + datetime.timedelta(days=4)).replace(day=1).timestamp()


def begins(per: Per, at: float) -> float:
    """When the day or month that a time is in began, in seconds since the epoch."""
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight if per == "day" else midnight.replace(day=1)).timestamp()


@attrs.define
class Sums:
    """What was used in a period: requests, tokens, US dollars, and how many of the requests have no known price."""

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    #: When the first of it was, in seconds since the epoch; 0 is not known.
    since: float = 0.0

    def add(self, other: Sums) -> None:
        """Add what was used elsewhere."""
        self.requests += other.requests
        self.tokens += other.tokens
        self.cost += other.cost
        self.unpriced += other.unpriced
        self.since = min(filter(None, (self.since, other.since)), default=0.0)


class Spending:
    """
    What was spent, by ``key:NAME``, ``team:NAME``, ``account:NAME`` and ``model:NAME``, today and this month.

    :param wall: seconds since the epoch.
    :ivar changed: called whenever something is added.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        #: By name, and then by period.
        self._spent: dict[str, dict[str, Sums]] = {}
        #: What has not been added there yet, by who spent it, from :attr:`_since` until :attr:`_until`.
        self._new: dict[tuple[str | None, str | None, str, str], Sums] = {}
        self._since = self._until = 0.0
        self._today = ("", "")
        self.changed: Callable[[], None] = lambda: None

    def _periods(self) -> tuple[str, str]:
        """Today and this month."""
        at = self._wall()
        if not self._since <= at < self._until:
            self._fold()
            self._since, self._until = begins("day", at), ends("day", at)
            self._today = (period("day", at), period("month", at))
        return self._today

    def add(
        self, now: float, key: str | None, team: str | None, account: str, model: str, tokens: int, cost: float | None
    ) -> None:
        """
        Add a request that has ended: its client key and that one's team, the account and the model that served it.

        :param now: in seconds since the epoch.
        :param cost: in US dollars; None is not known.
        """
        if not self._since <= now < self._until:
            self._periods()
        who = (key, team, account, model)
        sums = self._new.get(who)
        if sums is None:
            if len(self._new) >= MAX_NEW:
                self._fold()
            sums = self._new[who] = Sums(since=now)
        sums.requests += 1
        sums.tokens += tokens
        if cost is None:
            sums.unpriced += 1
        else:
            sums.cost += cost
        self.changed()

    def _fold(self) -> None:
        """Add what is new to the sums of each name: that is done when somebody looks, not with each request."""
        new, self._new = self._new, {}
        for who, sums in new.items():
            for what, name in zip(_WHO, who, strict=True):
                if name:
                    of = self._spent.pop(f"{what}:{name}", None) or {}
                    self._spent[f"{what}:{name}"] = of  # at the end: it was used last
                    for old in [each for each in of if each not in self._today]:
                        del of[old]
                    for each in self._today:
                        of.setdefault(each, Sums()).add(sums)
        while len(self._spent) > MAX_NAMES:
            del self._spent[next(iter(self._spent))]

    def of(self, name: str, per: Per) -> Sums:
        """Return what was used today, or this month."""
        day, month = self._periods()
        self._fold()
        return self._spent.get(name, {}).get(day if per == "day" else month) or Sums()

    def names(self, what: str) -> list[str]:
        """Return the names of keys, teams, accounts or models that have used something, without what they are."""
        self._fold()
        return [name.partition(":")[2] for name in self._spent if name.startswith(what + ":")]

    # Restarts

    def dump(self) -> dict[str, dict[str, Sums]]:
        """Return what was used today and this month."""
        periods = self._periods()
        self._fold()
        found = {name: {each: sums for each, sums in of.items() if each in periods} for name, of in self._spent.items()}
        return {name: of for name, of in found.items() if of}

    def load(self, spent: Mapping[str, Mapping[str, Sums]]) -> None:
        """Go on with what was used before; other days and months than these say nothing any more."""
        for name, of in spent.items():
            known = self._spent.setdefault(name, {})
            for each, sums in of.items():
                if each in self._periods():
                    known.setdefault(each, Sums()).add(sums)


@attrs.frozen
class Standing:
    """
    How a budget stands: what was `spent` of it, and the seconds until it is whole again.

    `unpriced` requests are in no amount, because the price of their model is not known.
    """

    budget: Budget
    spent: float
    seconds_left: float
    unpriced: int = 0
    #: When the first of it was spent, in seconds since the epoch; 0 is not known.
    since: float = 0.0

    @property
    def used_up(self) -> bool:
        """Whether nothing is left."""
        return self.spent >= self.budget.limit

    @property
    def level(self) -> int:
        """2 if nothing is left, 1 if it is time to warn, else 0."""
        return 2 if self.used_up else int(self.spent >= self.budget.limit * self.budget.warn_at)

    def amounts(self) -> str:
        """Tell what was spent of it, as people read it."""
        return f"{dollars(self.spent)} of {dollars(self.budget.limit)} a {self.budget.per}"

    def error(self, now: float) -> TooManyRequests:
        """Make the client's error, in Google's form; it says when the budget is whole again."""
        budget = self.budget
        whose = "team's" if budget.what == "team" else "client key's"
        wait = math.ceil(round(self.seconds_left * 1000, 6)) / 1000
        return TooManyRequests(
            f"This {whose} budget of {dollars(budget.limit)} a {budget.per} is spent. It begins anew at "
            f"{moment(now + self.seconds_left)}. Please retry in {wait:.3f}s.",
            reason="BUDGET_SPENT",
            retry_after=wait,
            details=[
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {
                            "quotaMetric": f"agm/{'team' if budget.what == 'team' else 'client_key'}_budget",
                            # clients tell by the word PerDay whether waiting is worth it
                            "quotaId": f"DollarsPer{budget.per.title()}Per"
                            f"{'Team' if budget.what == 'team' else 'ClientKey'}",
                            "quotaValue": f"{budget.limit:g}",
                        }
                    ],
                }
            ],
        )


def moment(at: float) -> str:
    """Return a time in UTC as people read it."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


class Budgets:
    """
    The budgets of a configuration, by what they are for.

    :param spending: what was spent.
    :param wall: seconds since the epoch.
    """

    def __init__(self, spending: Spending, wall: Callable[[], float]) -> None:
        self._spending = spending
        self._wall = wall
        self._by_name: dict[str, list[Budget]] = {}
        #: The level at which each was when that was last told.
        self._told: dict[tuple[str, Per], tuple[str, int]] = {}

    def configure(self, budgets: Sequence[Budget]) -> None:
        """Go on with other budgets."""
        self._by_name = {}
        for budget in budgets:
            self._by_name.setdefault(budget.of, []).append(budget)

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def standing(self, budget: Budget) -> Standing:
        """How one stands."""
        now = self._wall()
        sums = self._spending.of(budget.of, budget.per)
        return Standing(budget, sums.cost, max(ends(budget.per, now) - now, 0.001), sums.unpriced, sums.since)

    def all(self) -> list[Standing]:
        """How all of them stand, in the order of the configuration."""
        return [self.standing(budget) for budgets in self._by_name.values() for budget in budgets]

    def of(self, *names: str) -> list[Standing]:
        """How those of some names stand, as ``key:NAME``."""
        return [self.standing(budget) for name in names for budget in self._by_name.get(name, ())]

    def spent(self, *names: str) -> Standing | None:
        """The budget of some names that is used up and refuses, and of several the one that is so for the longest."""
        if not self._by_name:
            return None
        found = [it for it in self.of(*names) if it.used_up and it.budget.then == "refuse"]
        return max(found, key=lambda it: it.seconds_left, default=None)

    def news(self, *names: str) -> list[Standing]:
        """The budgets of some names that have come to a higher level since this was last asked, in this period."""
        if not self._by_name:
            return []
        found = []
        now = self._wall()
        for it in self.of(*names):
            key, at = (it.budget.of, it.budget.per), period(it.budget.per, now)
            told_in, level = self._told.get(key, ("", 0))
            before = level if told_in == at else 0
            if it.level != before:
                self._told[key] = (at, it.level)
            if it.level > before:
                found.append(it)
        return found

    def take_note(self) -> None:
        """Regard the levels that budgets are at as told: those of before a restart were."""
        now = self._wall()
        for it in self.all():
            self._told[it.budget.of, it.budget.per] = (period(it.budget.per, now), it.level)
