"""
What is known of an account: what it rests for and until when, what is left of its quotas, what it is serving.

From this follows whether it is a candidate at a given time, why not, and until when.  The pool alone changes what is
kept here; nothing in this module does, and time is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import Enum

import attrs

from agm.core import kinds
from agm.core.breaker import Endpoints
from agm.core.classify import MAX_COOLDOWN, SHORT_DELAY, UNSTATED_DELAY, Fault, Verdict
from agm.core.exclusions import Cause, Exclusion
from agm.core.request import Account

#: When to look again at an account that is serving as much as it may or is being probed, in seconds.
BUSY_WAIT = 1.0
#: A rest that has been over for so many seconds says nothing of how long the next one must be.
FORGET = 600.0


@attrs.frozen
class Remembered:
    """
    What is known of an account and must survive a restart; loads and probes do not.

    `rests` are (model, name of the cause, reason, seconds left or None, probes that failed); `quotas` are (model,
    fraction left, seconds left).  Seconds may be negative: then the rest is over, and a probe is due.
    """

    disabled: str | None = None
    rests: tuple[tuple[str, str, str, float | None, int], ...] = ()
    quotas: tuple[tuple[str, float, float], ...] = ()


@attrs.define(eq=False)
class Rest:
    """Why an account rests for a model.  `until` of None: until a person acts."""

    cause: Cause
    reason: str
    until: float | None
    #: The pool's count of leases when it began: what was leased before says nothing about it.
    since: int = 0
    #: How many probes have failed.
    strikes: int = 0
    #: The lease of the request that tries the account after the rest.
    probe: object = None

    @property
    def ends(self) -> float:
        """When it is over, in seconds of the pool's clock; never without a person."""
        return math.inf if self.until is None else self.until


def rest_after(verdict: Verdict, now: float, known: Rest | None, *, probe: bool) -> Rest | None:
    """
    The rest that a failure asks for; None where the account may go on.

    :param known: the rest that was known for this account and model.
    :param probe: whether it was that rest's probe that failed: the next one is then twice as long as what was stated,
        and so on, up to an hour.
    """
    strikes = 0
    if known is not None and known.until is not None and now - known.until < FORGET:
        strikes = known.strikes + probe
    match verdict.fault:
        case Fault.CREDENTIAL:
            return Rest(Cause.DISABLED, f"its credential is refused ({verdict.reason})", None, strikes=strikes)
        case Fault.FORBIDDEN:
            return Rest(Cause.DISABLED, verdict.reason, None, strikes=strikes)
        case Fault.NO_MODEL:
            return Rest(Cause.MODEL, verdict.reason, now + MAX_COOLDOWN, strikes=strikes)
        case Fault.RATE | Fault.QUOTA:
            delay = UNSTATED_DELAY if verdict.delay is None else verdict.delay
            if verdict.fault is Fault.RATE and delay <= SHORT_DELAY and not probe:
                return None
            delay = min(max(delay, 1.0 if probe else 0.0) * 2.0 ** min(strikes, 20), MAX_COOLDOWN)
            return Rest(Cause.RESTING, verdict.reason, now + delay, strikes=strikes)
        case _:
            return None


@attrs.frozen
class Quota:
    """The fraction of a quota that is left, and until when that is worth knowing."""

    left: float
    until: float


class State(Enum):
    """Where an account stands for a model that it has."""

    READY = "ready"
    BUSY = "busy"  # full or being probed: may be ready at any moment
    RESTING = "resting"  # until a time
    OUT = "out"  # until something is done about it


@attrs.define(eq=False)
class Member:
    """All that is known of an account: why it is disabled, and by model its rests and quotas."""

    account: Account
    in_flight: int = 0
    disabled: str | None = None
    rests: dict[str, Rest] = attrs.field(factory=dict)
    quotas: dict[str, Quota] = attrs.field(factory=dict)
    refused: set[str] = attrs.field(factory=set)  # models refused with this credential since it last worked

    @property
    def full(self) -> bool:
        """Whether it serves as many requests as it may."""
        limit = self.account.max_concurrency
        return limit is not None and self.in_flight >= limit

    def exclusion(self, model: str, method: str, now: float, endpoints: Endpoints) -> Exclusion | None:
        """Why the account is no candidate; None if it is."""
        account = self.account
        if method not in kinds.METHODS[account.kind]:
            return Exclusion(account, Cause.METHOD, f"{account.kind} accounts have no {method}")
        if model and model not in account.models:
            return Exclusion(account, Cause.MODEL, f"its models do not include {model}")
        if self.disabled is not None:
            return Exclusion(account, Cause.DISABLED, self.disabled)
        rest = self.rests.get(model)
        if rest is not None and rest.until is None:
            return Exclusion(account, rest.cause, f"{rest.reason}, for {model}")
        holds: list[tuple[float, Cause, str]] = []
        if rest is not None and rest.ends > now:
            holds.append((rest.ends, rest.cause, f"{rest.reason}, for {model}"))
        quota = self.quotas.get(model)
        if quota is not None and quota.until > now and quota.left <= account.reserve:
            reason = f"{quota.left:.0%} of its quota for {model} is left; its reserve is {account.reserve:.0%}"
            holds.append((quota.until, Cause.RESERVE, reason))
        shut = None if endpoints.all_well else endpoints.all_shut_until(account.endpoints, now)
        if shut:
            holds.append((shut, Cause.ENDPOINT, "its endpoints fail"))
        if holds:
            until, cause, reason = max(holds, key=lambda hold: hold[0])
            return Exclusion(account, cause, reason, until - now)
        if rest is not None and rest.probe is not None:
            return Exclusion(account, Cause.PROBING, f"a request tries it after its rest ({rest.reason})", BUSY_WAIT)
        if shut is not None:
            return Exclusion(account, Cause.ENDPOINT, "a request tries its endpoint", BUSY_WAIT)
        if self.full:
            return Exclusion(account, Cause.BUSY, f"it serves {self.in_flight} requests", BUSY_WAIT)
        return None

    def state(self, model: str, now: float, endpoints: Endpoints) -> tuple[State, float]:
        """As :meth:`exclusion` for an account that has model and method, but only when it ends."""
        if self.disabled is not None:
            return State.OUT, math.inf
        rest = self.rests.get(model)
        if rest is not None and rest.until is None:
            return State.OUT, math.inf
        until = 0.0 if rest is None or rest.ends <= now else rest.ends
        quota = self.quotas.get(model)
        if quota is not None and quota.until > now and quota.left <= self.account.reserve:
            until = max(until, quota.until)
        shut = None if endpoints.all_well else endpoints.all_shut_until(self.account.endpoints, now)
        until = max(until, shut or 0.0)
        if until:
            return State.RESTING, until
        if self.full or shut is not None or (rest is not None and rest.probe is not None):
            return State.BUSY, now
        return State.READY, now

    def remembered(self, now: float) -> Remembered | None:
        """What must survive a restart; None if that is nothing."""
        if self.disabled is None and not self.rests and not self.quotas:
            return None
        rests = tuple(
            (model, rest.cause.name, rest.reason, None if rest.until is None else rest.until - now, rest.strikes)
            for model, rest in self.rests.items()
            if rest.ends > now - FORGET
        )
        quotas = tuple((model, it.left, it.until - now) for model, it in self.quotas.items() if it.until > now)
        return Remembered(self.disabled, rests, quotas) if self.disabled is not None or rests or quotas else None


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
