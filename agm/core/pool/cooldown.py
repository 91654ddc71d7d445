"""
What is known of an account: its cooldowns and until when they last, what is left of its quotas, what it is serving.

From this follows whether it is a candidate at a given time, why not, and until when.  The pool alone changes what is
kept here; nothing in this module does, and time is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import Enum

import attrs

from agm.core.classify import MAX_COOLDOWN, SHORT_DELAY, UNSTATED_DELAY, Fault, Verdict
from agm.core.pool.breaker import Endpoints
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.request import Account

#: When to look again at an account that is serving as much as it may or is being probed, in seconds.
BUSY_WAIT = 1.0
#: A cooldown that has been over for so many seconds says nothing of how long the next one must be.
FORGET = 600.0


#: Seconds for which an account is set aside at first; twice as many after each probe that is refused, up to an hour.
ASIDE_SECONDS = 60.0
#: Seconds for which an account is known to lack a model in a version and method.
LACKING_SECONDS = 300.0
#: What stands for all models.
ALL_MODELS = "*"


@attrs.frozen
class KnownCooldown:
    """
    A cooldown as it survives a restart, or is shown: `cause` is the name of a :class:`Cause`, `left` the seconds that
    are left (negative: it is over, and a probe is due; None: it takes manual action), `strikes` the probes that failed.
    """

    model: str
    cause: str
    reason: str
    left: float | None
    strikes: int = 0
    message: str = ""
    link: str | None = None


@attrs.frozen
class Remembered:
    """
    What is known of an account and must survive a restart; loads and probes do not.

    `held` is why it serves no model, `cooldowns` are those for one model each; `quotas` are (model, fraction left,
    seconds left).
    """

    held: KnownCooldown | None = None
    cooldowns: tuple[KnownCooldown, ...] = ()
    quotas: tuple[tuple[str, float, float], ...] = ()

    @property
    def disabled(self) -> str | None:
        """Say why the account is disabled and needs manual action; None while it is not."""
        return self.held.reason if self.held is not None and self.held.left is None else None

    @property
    def all_cooldowns(self) -> tuple[KnownCooldown, ...]:
        """The cooldowns, and before them that for all models, if it ends by itself."""
        aside = self.held is not None and self.held.left is not None
        return (self.held, *self.cooldowns) if aside and self.held is not None else self.cooldowns


@attrs.define(eq=False)
class Cooldown:
    """
    Why an account cools down, for a model or for all.  `until` of None: it needs manual action.

    `message` is what Google said of it, and `link` where that can be mended.
    """

    cause: Cause
    reason: str
    until: float | None
    #: The pool's count of leases when it began: what was leased before says nothing about it.
    since: int = 0
    #: How many probes have failed.
    strikes: int = 0
    #: The lease of the request that probes the account after the cooldown.
    probe: object = None
    message: str = ""
    link: str | None = None

    @property
    def ends(self) -> float:
        """When it is over, in seconds of the pool's clock; never without a person."""
        return math.inf if self.until is None else self.until

    def known(self, model: str, now: float) -> KnownCooldown:
        """Describe it as it is now."""
        left = None if self.until is None else self.until - now
        return KnownCooldown(model, self.cause.name, self.reason, left, self.strikes, self.message, self.link)

    @classmethod
    def of(cls, known: KnownCooldown, now: float, since: int) -> Cooldown:
        """Go on with what was known before."""
        until = None if known.left is None else now + min(known.left, MAX_COOLDOWN)
        return cls(
            Cause[known.cause], known.reason, until, since, known.strikes, message=known.message, link=known.link
        )


#: Faults that are about an account as a whole, not about one of its models.
ABOUT_THE_ACCOUNT = frozenset({Fault.CREDENTIAL, Fault.LOCKED, Fault.BLOCKED})


def cooldown_after(verdict: Verdict, now: float, known: Cooldown | None, *, probe: bool) -> Cooldown | None:
    """
    Make the cooldown that a failure asks for; None where the account may go on.

    :param known: the cooldown that was known for this account, and for the model if it is about one.
    :param probe: whether it was that cooldown's probe that failed: the next one is then twice as long as what was
        stated, and so on, up to an hour.
    """
    strikes = 0
    if known is not None and known.until is not None and now - known.until < FORGET:
        strikes = known.strikes + probe
    match verdict.fault:
        case Fault.CREDENTIAL:
            cause, reason, until = Cause.DISABLED, f"its credential is refused ({verdict.reason})", None
        case Fault.LOCKED:
            cause, reason, until = Cause.DISABLED, verdict.reason, None
        case Fault.BLOCKED | Fault.FORBIDDEN:
            cause, reason = Cause.ASIDE, verdict.reason
            until = now + min(ASIDE_SECONDS * 2.0 ** min(strikes, 20), MAX_COOLDOWN)
        case Fault.RATE | Fault.QUOTA:
            delay = UNSTATED_DELAY if verdict.delay is None else verdict.delay
            if verdict.fault is Fault.RATE and delay <= SHORT_DELAY and not probe:
                return None
            cause, reason = Cause.RESTING, verdict.reason
            until = now + min(max(delay, 1.0 if probe else 0.0) * 2.0 ** min(strikes, 20), MAX_COOLDOWN)
        case _:
            return None
    return Cooldown(cause, reason, until, strikes=strikes, message=verdict.message, link=verdict.link)


@attrs.frozen
class Quota:
    """
    The fraction of a quota that is left, and until when that is worth knowing.

    `resets` is when it is whole again, `noted` when it was reported, and `began` when it was first reported since it
    was whole, with what was left then, `was`: how fast it is used up.
    """

    left: float
    until: float
    resets: float = math.inf
    noted: float = 0.0
    began: float = 0.0
    was: float = 0.0

    def out_in(self, reserve: float, now: float) -> float | None:
        """Seconds until it comes down to a reserve, at the pace since it was whole; None where it does not."""
        if self.left <= reserve or self.was <= self.left or self.until <= now:
            return None
        seconds = (self.left - reserve) * (self.noted - self.began) / (self.was - self.left) - (now - self.noted)
        return max(seconds, 0.0) if now + seconds < self.resets else None


class State(Enum):
    """Where an account stands for a model that it has."""

    READY = "ready"
    BUSY = "busy"  # full or being probed: may be ready at any moment
    RESTING = "resting"  # until a time
    OUT = "out"  # until something is done about it


#: A model, a version and a method: what an account can lack.
Lack = tuple[str, str, str]


@attrs.define(eq=False)
class Member:
    """
    All that is known of an account.

    `held` is why it serves no model at all; `cooldowns` and `quotas` are by model; `lacks` tells until when it is known
    to lack something; `doubts` are the conversations, by model, that it has refused without a reason that is its own.
    """

    account: Account
    in_flight: int = 0
    held: Cooldown | None = None
    cooldowns: dict[str, Cooldown] = attrs.field(factory=dict)
    quotas: dict[str, Quota] = attrs.field(factory=dict)
    lacks: dict[Lack, float] = attrs.field(factory=dict)
    doubts: dict[str, set[str]] = attrs.field(factory=dict)
    #: Why it is over its budget, and until when, in seconds of the pool's clock; None while it is not.
    over_budget: tuple[str, float] | None = None

    @classmethod
    def of(cls, account: Account) -> Member:
        """Begin to know an account; one without a usable secret is off."""
        member = cls(account)
        member.hold_unusable()
        return member

    def hold_unusable(self) -> None:
        """Keep the account off while its secret is missing or unusable."""
        if self.account.unusable is not None:
            self.held = Cooldown(Cause.DISABLED, self.account.unusable, None)

    @property
    def full(self) -> bool:
        """Whether it serves as many requests as it may."""
        limit = self.account.max_concurrency
        return limit is not None and self.in_flight >= limit

    def cooldowns_of(self, model: str) -> tuple[Cooldown, ...]:
        """Return the cooldowns that a request for `model` meets."""
        cooldown = self.cooldowns.get(model)
        if self.held is None:
            return () if cooldown is None else (cooldown,)
        return (self.held,) if cooldown is None else (self.held, cooldown)

    def exclusion(
        self, model: str, method: str, now: float, endpoints: Endpoints, version: str = ""
    ) -> Exclusion | None:
        """Say why the account is no candidate; None if it is."""
        account = self.account
        if method not in account.methods:
            return Exclusion(account, Cause.METHOD, f"{account.kind} accounts have no {method}")
        if model and model not in account.models:
            return Exclusion(account, Cause.MODEL, f"its models do not include {model}")
        if self.lacks and self.lacks.get((model, version, method), 0.0) > now:
            return Exclusion(account, Cause.MODEL, f"Google says that it has no {model} in {version} for {method}")
        cooldowns = self.cooldowns_of(model)
        holds: list[Exclusion] = []
        for cooldown in cooldowns:
            reason = cooldown.reason if cooldown is self.held else f"{cooldown.reason}, for {model}"
            if cooldown.ends > now:
                wait = None if cooldown.until is None else cooldown.until - now
                holds.append(Exclusion(account, cooldown.cause, reason, wait, cooldown.message, cooldown.link))
        quota = self.quotas.get(model)
        if quota is not None and quota.until > now and quota.left <= account.reserve:
            reason = f"{quota.left:.0%} of its quota for {model} is left; its reserve is {account.reserve:.0%}"
            holds.append(Exclusion(account, Cause.RESERVE, reason, quota.until - now))
        if self.over_budget is not None and self.over_budget[1] > now:
            holds.append(Exclusion(account, Cause.BUDGET, self.over_budget[0], self.over_budget[1] - now))
        open_until = None if endpoints.all_closed else endpoints.all_open_until(account.endpoints, now)
        if open_until:
            holds.append(Exclusion(account, Cause.ENDPOINT, "its endpoints fail", open_until - now))
        if holds:
            return max(holds, key=lambda hold: math.inf if hold.wait is None else hold.wait)
        probed = next((cooldown for cooldown in cooldowns if cooldown.probe is not None), None)
        if probed is not None:
            reason = f"a request is probing it after its cooldown ({probed.reason})"
            return Exclusion(account, Cause.PROBING, reason, BUSY_WAIT, probed.message, probed.link)
        if open_until is not None:
            return Exclusion(account, Cause.ENDPOINT, "a request is probing its endpoint", BUSY_WAIT)
        if self.full:
            return Exclusion(account, Cause.BUSY, f"it serves {self.in_flight} requests", BUSY_WAIT)
        return None

    def state(
        self, model: str, now: float, endpoints: Endpoints, version: str = "", method: str = ""
    ) -> tuple[State, float]:
        """As :meth:`exclusion` for an account whose kind and configuration have model and method: only when it ends."""
        if self.lacks and self.lacks.get((model, version, method), 0.0) > now:
            return State.OUT, math.inf
        until, probed = 0.0, False
        for cooldown in self.cooldowns_of(model):
            if cooldown.until is None:
                return State.OUT, math.inf
            if cooldown.until > now:
                until = max(until, cooldown.until)
            probed = probed or cooldown.probe is not None
        quota = self.quotas.get(model)
        if quota is not None and quota.until > now and quota.left <= self.account.reserve:
            until = max(until, quota.until)
        if self.over_budget is not None and self.over_budget[1] > now:
            until = max(until, self.over_budget[1])
        open_until = None if endpoints.all_closed else endpoints.all_open_until(self.account.endpoints, now)
        until = max(until, open_until or 0.0)
        if until:
            return State.RESTING, until
        if self.full or open_until is not None or probed:
            return State.BUSY, now
        return State.READY, now

    def remembered(self, now: float) -> Remembered | None:
        """Describe what must survive a restart; None if that is nothing."""
        if self.held is None and not self.cooldowns and not self.quotas:
            return None
        held = None if self.held is None or self.held.ends <= now - FORGET else self.held.known(ALL_MODELS, now)
        cooldowns = tuple(
            cooldown.known(model, now) for model, cooldown in self.cooldowns.items() if cooldown.ends > now - FORGET
        )
        quotas = tuple((model, it.left, it.until - now) for model, it in self.quotas.items() if it.until > now)
        return Remembered(held, cooldowns, quotas) if held is not None or cooldowns or quotas else None

    def forget(self, model: str | None) -> bool:
        """Take back what is held against the account, for a model or for all; returns whether there was anything."""
        if model is None:
            unusable = self.account.unusable is not None
            found = (self.held is not None and not unusable) or bool(
                self.cooldowns or self.quotas or self.lacks or self.doubts
            )
            self.held = None
            self.hold_unusable()
            for known in (self.cooldowns, self.quotas, self.lacks, self.doubts):
                known.clear()
            return found
        lacked = [lack for lack in self.lacks if lack[0] == model]
        for lack in lacked:
            del self.lacks[lack]
        gone = [known.pop(model, None) for known in (self.cooldowns, self.quotas, self.doubts)]
        return bool(lacked) or any(it is not None for it in gone)


class Loads(Mapping[str, int]):
    """How many requests each account is serving, by name, as it is at the moment of looking."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members

    def __getitem__(self, name: str) -> int:
        return self._members[name].in_flight

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
