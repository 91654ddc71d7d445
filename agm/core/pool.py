"""
The pool of accounts: who can serve which model now, who is serving, and who has to rest.

An account is used through a :class:`Lease`, which is given back exactly once.  What a failure means comes from
:mod:`agm.core.classify`; the pool draws the consequence for the account and model it happened to.  Time is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from types import TracebackType

import attrs

from agm.core import kinds
from agm.core.classify import MAX_COOLDOWN, SHORT_DELAY, UNSTATED_DELAY, Fault, Verdict
from agm.core.errors import GatewayError, NotFound, TooManyRequests, Unavailable, Unimplemented
from agm.core.request import Account

#: A credential is taken for bad as a whole once this many models in a row were refused with it.
REFUSED_MODELS = 2
#: When to look again at an account that is serving as much as it may, in seconds.
BUSY_WAIT = 1.0
#: When a client is to try again while no account will get well by itself, in seconds.
PERSON_WAIT = 60.0
#: How many models an account remembers resting for: model names are the clients' to invent.
MAX_RESTS = 1000


class Cause(Enum):
    """The kinds of reasons for which an account is not a candidate."""

    METHOD = "its kind lacks the method"
    MODEL = "it lacks the model"
    DISABLED = "disabled until a person acts"
    RESTING = "resting"
    BUSY = "at its max_concurrency"
    PLUGIN = "taken away by a plugin"


@attrs.frozen
class Exclusion:
    """
    Why an account is not a candidate: the `cause`, and a `reason` to read.

    `wait` is the number of seconds after which that may end, None if it is not known to.
    """

    account: Account
    cause: Cause
    reason: str
    wait: float | None = None


@attrs.define(eq=False)
class _Rest:
    """Why an account rests for a model.  `until` of None: until a person acts."""

    cause: Cause
    reason: str
    until: float | None

    @property
    def ends(self) -> float:
        return math.inf if self.until is None else self.until


@attrs.define(eq=False)
class _Member:
    account: Account
    in_flight: int = 0
    disabled: str | None = None
    rests: dict[str, _Rest] = attrs.field(factory=dict)
    refused: set[str] = attrs.field(factory=set)  # models refused with this credential since it last worked


class Lease:
    """The right to one request on an account; `async with` or ``try/finally`` gives it back."""

    def __init__(self, account: Account, give_back: Callable[[], None]) -> None:
        self.account = account
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give the account back.  Only the first call counts."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Pool:
    """
    The accounts and what is known of them.

    :param accounts: in the order of the configuration.
    :param now: seconds of a clock that never goes back.
    """

    def __init__(self, accounts: Iterable[Account], now: Callable[[], float]) -> None:
        self._now = now
        self._members = {account.name: _Member(account) for account in accounts}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts, in the order of the configuration."""
        return tuple(member.account for member in self._members.values())

    def candidates(self, model: str, method: str) -> tuple[list[Account], list[Exclusion]]:
        """The accounts that can serve `method` of `model` now, and why each of the others cannot."""
        now = self._now()
        ready: list[Account] = []
        excluded: list[Exclusion] = []
        for member in self._members.values():
            exclusion = self._exclusion(member, model, method, now)
            if exclusion is None:
                ready.append(member.account)
            else:
                excluded.append(exclusion)
        return ready, excluded

    def _exclusion(self, member: _Member, model: str, method: str, now: float) -> Exclusion | None:
        account = member.account
        if method not in kinds.METHODS[account.kind]:
            return Exclusion(account, Cause.METHOD, f"{account.kind} accounts have no {method}")
        if model not in account.models:
            return Exclusion(account, Cause.MODEL, f"its models do not include {model}")
        if member.disabled is not None:
            return Exclusion(account, Cause.DISABLED, member.disabled)
        rest = member.rests.get(model)
        if rest is not None and (rest.until is None or rest.until > now):
            wait = None if rest.until is None else rest.until - now
            return Exclusion(account, rest.cause, f"{rest.reason}, for {model}", wait)
        if account.max_concurrency is not None and member.in_flight >= account.max_concurrency:
            return Exclusion(account, Cause.BUSY, f"it serves {member.in_flight} requests", BUSY_WAIT)
        return None

    def replace(self, accounts: Iterable[Account], keep: Collection[str]) -> None:
        """
        Serve from `accounts` from now on.

        :param keep: names of accounts that have not changed: what is known of them stays.  Requests that are being
            served by the others go on.
        """
        members: dict[str, _Member] = {}
        for account in accounts:
            known = self._members.get(account.name) if account.name in keep else None
            if known is None:
                known = _Member(account)
            known.account = account
            members[account.name] = known
        self._members = members

    def lease(self, account: Account) -> Lease:
        """Take `account` for one request."""
        member = self._members[account.name]
        member.in_flight += 1

        def give_back() -> None:
            member.in_flight -= 1

        return Lease(account, give_back)

    def load(self, account: Account) -> int:
        """How many requests `account` is serving."""
        return self._members[account.name].in_flight

    def loads(self) -> Mapping[str, int]:
        """How many requests each account is serving, by name."""
        return {name: member.in_flight for name, member in self._members.items()}

    def succeeded(self, account: Account, model: str) -> None:
        """An answer came: whatever was held against the account for the model is over."""
        member = self._members.get(account.name)
        if member is not None:
            member.rests.pop(model, None)
            member.refused.clear()

    def failed(self, account: Account, model: str, verdict: Verdict) -> None:
        """Draw the consequence of a failure for `account` and `model`."""
        member = self._members.get(account.name)
        if member is None:  # taken out of the configuration while it was serving
            return
        now = self._now()
        match verdict.fault:
            case Fault.CREDENTIAL:
                # Google refuses single calls of good credentials now and then: one model is not yet the whole account
                member.refused.add(model)
                if len(member.refused) >= REFUSED_MODELS:
                    member.disabled = f"its credential is refused ({verdict.reason})"
                rest = _Rest(Cause.DISABLED, f"its credential is refused ({verdict.reason})", None)
            case Fault.FORBIDDEN:
                rest = _Rest(Cause.DISABLED, verdict.reason, None)
            case Fault.NO_MODEL:
                rest = _Rest(Cause.MODEL, verdict.reason, now + MAX_COOLDOWN)
            case Fault.RATE | Fault.QUOTA:
                delay = UNSTATED_DELAY if verdict.delay is None else verdict.delay
                if verdict.fault is Fault.RATE and delay <= SHORT_DELAY:
                    return
                rest = _Rest(Cause.RESTING, verdict.reason, now + delay)
            case _:
                return
        known = member.rests.get(model)
        if known is None or rest.ends >= known.ends:  # of several requests in flight, the worst news counts
            member.rests.pop(model, None)
            member.rests[model] = rest
        if len(member.rests) > MAX_RESTS:
            for old in [name for name, it in member.rests.items() if it.ends <= now] or [next(iter(member.rests))]:
                del member.rests[old]

    def disable(self, account: Account, reason: str) -> None:
        """Take `account` out until a person acts."""
        member = self._members.get(account.name)
        if member is not None:
            member.disabled = reason


def earliest(exclusions: Iterable[Exclusion]) -> float | None:
    """The shortest wait after which one of the accounts may serve again, in seconds; None if none is known to."""
    return min((e.wait for e in exclusions if e.wait is not None), default=None)


def nothing_left(model: str, method: str, version: str, exclusions: Sequence[Exclusion]) -> GatewayError:
    """The error for a request that no account can serve, from the reasons of all of them.  It names no account."""
    if not exclusions:
        return Unavailable(
            "agm has no account to serve this. Add one with the command: agm account add",
            reason="NO_ACCOUNTS",
            retry_after=PERSON_WAIT,
        )
    able = [e for e in exclusions if e.cause is not Cause.METHOD]
    if not able:
        return Unimplemented(f"None of the {len(exclusions)} accounts is of a kind that has {method}.")
    having = [e for e in able if e.cause is not Cause.MODEL]
    if not having:
        return NotFound(
            f"models/{model} is not found for API version {version}, or is not supported for {method}. "
            "Call ListModels to see the list of available models and their supported methods.",
            reason="MODEL_NOT_SERVED",
        )
    wait = earliest(having)
    reasons = ", ".join(
        f"{sum(e.cause is c for e in having)} {c.value}" for c in Cause if any(e.cause is c for e in having)
    )
    if wait is not None:
        return TooManyRequests(
            f"No account can serve models/{model} now ({reasons}). Please retry in {wait:.3f}s.",
            reason="ALL_ACCOUNTS_RESTING",
            retry_after=wait,
        )
    return Unavailable(
        f"No account can serve models/{model} ({reasons}).", reason="NO_ACCOUNT_READY", retry_after=PERSON_WAIT
    )
