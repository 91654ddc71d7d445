"""
The pool of accounts: who can serve which model now, who is serving, who has to rest, and who waits.

An account is used through a :class:`Lease`, which is given back exactly once.  What a failure means comes from
:mod:`agm.core.classify`; the pool draws the consequence for the account and model it happened to.  When a rest is over,
one request is let through as a probe: nobody else gets the account for that model until the probe has told how it is.

For each model that is asked for the pool keeps a :class:`_Group`: who of the accounts that have it is ready, busy or
resting.  A group is derived from what is known of the accounts and can be dropped at any time.  It is changed when an
account's state changes, so that choosing costs the same however many accounts there are.

Time is handed in.  Nothing here waits: who has to is put in a line, and called when there may be an account for it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from heapq import heapify, heappop, heappush
from types import TracebackType

import attrs

from agm.core import kinds
from agm.core.breaker import Endpoints, Trouble
from agm.core.candidates import Candidates, Ready, Roll
from agm.core.classify import MAX_COOLDOWN, SHORT_DELAY, UNSTATED_DELAY, Fault, Verdict
from agm.core.errors import GatewayError, NotFound, TooManyRequests, Unavailable, Unimplemented
from agm.core.request import Account

__all__ = [
    "Candidates",
    "Cause",
    "Exclusion",
    "Lease",
    "Pool",
    "Remembered",
    "Ticket",
    "earliest",
    "nothing_left",
]

#: A credential is taken for bad as a whole once this many models in a row were refused with it.
REFUSED_MODELS = 2
#: When to look again at an account that is serving as much as it may or is being probed, in seconds.
BUSY_WAIT = 1.0
#: When a client is to try again while no account will get well by itself, in seconds.
PERSON_WAIT = 60.0
#: How many models an account remembers resting for: model names are the clients' to invent.
MAX_RESTS = 1000
#: How many models the pool keeps groups for; the one that was not asked for the longest goes first.
MAX_GROUPS = 64
#: A rest that has been over for so many seconds says nothing of how long the next one must be.
FORGET = 600.0
#: What is known of a quota says nothing after so many seconds; who reports it reports it again.
MAX_NOTE_AGE = 3600.0


class Cause(Enum):
    """The kinds of reasons for which an account is not a candidate."""

    METHOD = "its kind lacks the method"
    MODEL = "it lacks the model"
    DISABLED = "disabled until a person acts"
    RESTING = "resting"
    RESERVE = "keeping its reserve"
    ENDPOINT = "its endpoints fail"
    PROBING = "being probed"
    BUSY = "at its max_concurrency"
    PLUGIN = "taken away by a plugin"
    OWNER = "not the owner of what the request names"


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
class _Rest:
    """Why an account rests for a model.  `until` of None: until a person acts."""

    cause: Cause
    reason: str
    until: float | None
    #: The pool's count of leases when it began: what was leased before says nothing about it.
    since: int = 0
    #: How many probes have failed.
    strikes: int = 0
    probe: Lease | None = None

    @property
    def ends(self) -> float:
        return math.inf if self.until is None else self.until


@attrs.frozen
class _Quota:
    """The fraction of a quota that is left, and until when that is worth knowing."""

    left: float
    until: float


@attrs.define(eq=False)
class _Member:
    account: Account
    in_flight: int = 0
    disabled: str | None = None
    rests: dict[str, _Rest] = attrs.field(factory=dict)
    quotas: dict[str, _Quota] = attrs.field(factory=dict)
    refused: set[str] = attrs.field(factory=set)  # models refused with this credential since it last worked

    @property
    def full(self) -> bool:
        limit = self.account.max_concurrency
        return limit is not None and self.in_flight >= limit


class _State(Enum):
    """Where an account stands in a group."""

    READY = "ready"
    BUSY = "busy"  # full or being probed: may be ready at any moment
    RESTING = "resting"  # until a time
    OUT = "out"  # until something is done about it


class _Group:
    """The accounts that have a model and a method: who is ready, who is busy, and when the others will be ready."""

    __slots__ = ("_heap", "_resting", "busy", "ready", "roll")

    def __init__(self, roll: Roll, states: Sequence[tuple[_State, float]]) -> None:
        self.roll = roll
        self.ready = Ready(roll, (state is _State.READY for state, _ in states))
        self.busy = {place for place, (state, _) in enumerate(states) if state is _State.BUSY}
        self._resting = {place: until for place, (state, until) in enumerate(states) if state is _State.RESTING}
        self._heap = [(until, place) for place, until in self._resting.items()]
        heapify(self._heap)

    def put(self, place: int, state: _State, until: float) -> None:
        """Say where the account at a place stands."""
        self.ready.put(place, state is _State.READY)
        if state is _State.BUSY:
            self.busy.add(place)
        else:
            self.busy.discard(place)
        if state is not _State.RESTING:
            self._resting.pop(place, None)
        elif self._resting.get(place) != until:
            self._resting[place] = until
            heappush(self._heap, (until, place))
            if len(self._heap) > 2 * len(self._resting) + 64:  # old entries of accounts that got well earlier
                self._heap = [(time, at) for at, time in self._resting.items()]
                heapify(self._heap)

    def next_recovery(self) -> tuple[float, int] | None:
        """When the next rest is over, and whose."""
        heap = self._heap
        while heap and self._resting.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else None


class Lease:
    """
    The right to one request at a time on an account; `async with` or ``try/finally`` gives it back.

    `probe` says that the account has rested for the model, and that this is the one request that tries it.
    """

    def __init__(self, pool: Pool, member: _Member, model: str, rest: _Rest | None, taken: int) -> None:
        self.account = member.account
        self.model = model
        self.probe = rest is not None
        self._pool = pool
        self._member = member
        self._rest = rest
        self._taken = taken
        self._tried: set[int] = set()
        self._claimed: str | None = None
        self._out = True

    def release(self) -> None:
        """Give the account back.  Only the first call counts."""
        if self._out:
            self._out = False
            self._pool._given_back(self)

    def next_endpoint(self) -> int | None:
        """
        The number of the endpoint to ask, another one with each call; None when there is no other.

        Endpoints that fail are passed over; the first request after an endpoint's rest tries it for all.
        """
        return self._pool._endpoint_for(self)

    def start_over(self) -> None:
        """Ask all endpoints again."""
        self._tried.clear()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Ticket:
    """A place in the line of those who wait for a model.  :meth:`leave` gives it up."""

    def __init__(self, pool: Pool, number: int, model: str, method: str, offer: Callable[[], bool]) -> None:
        self.number = number
        self.model = model
        self.method = method
        self.offer = offer
        self._pool = pool

    def leave(self) -> None:
        """Wait no longer.  Only the first call counts."""
        self._pool._left(self)


class _Loads(Mapping[str, int]):
    """How many requests each account is serving, by name, as it is at the moment of looking."""

    def __init__(self, members: Mapping[str, _Member]) -> None:
        self._members = members

    def __getitem__(self, name: str) -> int:
        return self._members[name].in_flight

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class Pool:
    """
    The accounts and what is known of them.

    :param accounts: in the order of the configuration.
    :param now: seconds of a clock that never goes back.
    :ivar changed: called whenever something changes that must survive a restart.
    """

    def __init__(self, accounts: Iterable[Account], now: Callable[[], float]) -> None:
        self._now = now
        self._members: dict[str, _Member] = {}
        self._groups: OrderedDict[tuple[str, str], _Group] = OrderedDict()
        self._rolls: dict[frozenset[tuple[str, tuple[str, ...]]], Roll] = {}
        self._sorts: dict[tuple[str, tuple[str, ...]], Account] = {}
        self._endpoints = Endpoints()
        self._leases = 0
        self._tickets = 0
        self._lines: dict[str, OrderedDict[int, Ticket]] = {}
        self._due: dict[str, bool] = {}
        self._serving = False
        self.changed: Callable[[], None] = lambda: None
        self.replace(accounts, ())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts, in the order of the configuration."""
        return tuple(member.account for member in self._members.values())

    # Choosing

    def candidates(self, model: str, method: str, without: Collection[str] = ()) -> Candidates:
        """
        The accounts that can serve `method` of `model` now, by priority and in the order of the configuration.

        An empty `model` is that of requests about files and the like: every account has it.

        :param without: names of accounts to leave out.
        """
        return Candidates(self._group(model, method).ready, without=without)

    def excluded(self, model: str, method: str) -> list[Exclusion]:
        """Why each of the other accounts is no candidate.  This looks at every account: it is for explanations."""
        now = self._now()
        found = (self._exclusion(member, model, method, now) for member in self._members.values())
        return [exclusion for exclusion in found if exclusion is not None]

    def _exclusion(self, member: _Member, model: str, method: str, now: float) -> Exclusion | None:
        account = member.account
        if method not in kinds.METHODS[account.kind]:
            return Exclusion(account, Cause.METHOD, f"{account.kind} accounts have no {method}")
        if model and model not in account.models:
            return Exclusion(account, Cause.MODEL, f"its models do not include {model}")
        if member.disabled is not None:
            return Exclusion(account, Cause.DISABLED, member.disabled)
        rest = member.rests.get(model)
        if rest is not None and rest.until is None:
            return Exclusion(account, rest.cause, f"{rest.reason}, for {model}")
        holds: list[tuple[float, Cause, str]] = []
        if rest is not None and rest.ends > now:
            holds.append((rest.ends, rest.cause, f"{rest.reason}, for {model}"))
        quota = member.quotas.get(model)
        if quota is not None and quota.until > now and quota.left <= account.reserve:
            reason = f"{quota.left:.0%} of its quota for {model} is left; its reserve is {account.reserve:.0%}"
            holds.append((quota.until, Cause.RESERVE, reason))
        shut = None if self._endpoints.all_well else self._endpoints.all_shut_until(account.endpoints, now)
        if shut:
            holds.append((shut, Cause.ENDPOINT, "its endpoints fail"))
        if holds:
            until, cause, reason = max(holds, key=lambda hold: hold[0])
            return Exclusion(account, cause, reason, until - now)
        if rest is not None and rest.probe is not None:
            return Exclusion(account, Cause.PROBING, f"a request tries it after its rest ({rest.reason})", BUSY_WAIT)
        if shut is not None:
            return Exclusion(account, Cause.ENDPOINT, "a request tries its endpoint", BUSY_WAIT)
        if member.full:
            return Exclusion(account, Cause.BUSY, f"it serves {member.in_flight} requests", BUSY_WAIT)
        return None

    def _state(self, member: _Member, model: str, now: float) -> tuple[_State, float]:
        """As :meth:`_exclusion` for an account that has model and method, but only when it ends."""
        if member.disabled is not None:
            return _State.OUT, math.inf
        rest = member.rests.get(model)
        if rest is not None and rest.until is None:
            return _State.OUT, math.inf
        until = 0.0 if rest is None or rest.ends <= now else rest.ends
        quota = member.quotas.get(model)
        if quota is not None and quota.until > now and quota.left <= member.account.reserve:
            until = max(until, quota.until)
        shut = None if self._endpoints.all_well else self._endpoints.all_shut_until(member.account.endpoints, now)
        until = max(until, shut or 0.0)
        if until:
            return _State.RESTING, until
        if member.full or shut is not None or (rest is not None and rest.probe is not None):
            return _State.BUSY, now
        return _State.READY, now

    def _group(self, model: str, method: str) -> _Group:
        """The group of a model and method, in which every rest that is over has ended."""
        key = (model, _likes(method))
        group = self._groups.get(key)
        now = self._now()
        if group is None:
            roll = self._roll(model, method)
            members = self._members
            group = _Group(roll, [self._state(members[account.name], model, now) for account in roll.accounts])
            self._groups[key] = group
            if len(self._groups) > MAX_GROUPS:
                self._groups.popitem(last=False)
            return group
        self._groups.move_to_end(key)
        while (found := group.next_recovery()) is not None and found[0] <= now:
            place = found[1]
            group.put(place, *self._state(self._members[group.roll.accounts[place].name], model, now))
        return group

    def _roll(self, model: str, method: str) -> Roll:
        having = frozenset(
            sort
            for sort, one in self._sorts.items()
            if method in kinds.METHODS[one.kind] and (not model or model in one.models)
        )
        roll = self._rolls.get(having)
        if roll is None:
            accounts = (member.account for member in self._members.values())
            roll = self._rolls[having] = Roll.of(account for account in accounts if _sort(account) in having)
        return roll

    def _refresh(self, member: _Member, model: str | None = None) -> None:
        """Put an account in its place, in the groups of one model or of all, after its state has changed."""
        name, now = member.account.name, self._now()
        if model is None:
            groups = list(self._groups.items())
        else:
            keys = [(model, likes) for likes in _ALL_LIKES]
            groups = [(key, self._groups[key]) for key in keys if key in self._groups]
        for (served, _), group in groups:
            place = group.roll.place.get(name)
            if place is not None:
                group.put(place, *self._state(member, served, now))

    def _regroup(self) -> None:
        """Derive all groups anew when they are next asked for."""
        self._groups.clear()

    def soonest(self, model: str, method: str, without: Collection[str] = ()) -> float | None:
        """
        Seconds until an account that is no candidate may be one: 0 where that may be at any moment, as when one is
        full; None if it takes a person.

        :param without: names of accounts that are of no use.
        """
        group = self._group(model, method)
        useless = {place for name in without if (place := group.roll.place.get(name)) is not None}
        if group.busy - useless if useless else group.busy:
            return 0.0
        found = group.next_recovery()
        return None if found is None else max(found[0] - self._now(), 0.0)

    # Other accounts

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
        self._sorts = {_sort(member.account): member.account for member in members.values()}
        self._rolls.clear()
        self._endpoints.keep([url for member in members.values() for url in member.account.endpoints])
        self._regroup()
        self.changed()
        self.wake()

    def _current(self, account: Account, lease: Lease | None) -> _Member | None:
        """Whom news of an account is about: nobody if it has left, or is another one under the same name by now."""
        member = self._members.get(account.name)
        return None if lease is not None and lease._member is not member else member

    # Leases

    def lease(self, account: Account, model: str) -> Lease:
        """Take a candidate for one request for `model`; the first one after a rest is its probe."""
        member = self._members[account.name]
        rest = member.rests.get(model)
        tried = rest if rest is not None and rest.probe is None and rest.ends <= self._now() else None
        self._leases += 1
        member.in_flight += 1
        lease = Lease(self, member, model, tried, self._leases)
        if tried is not None:
            tried.probe = lease
            self._refresh(member, model)
        if member.full:
            self._refresh(member)
        return lease

    def _given_back(self, lease: Lease) -> None:
        member, rest = lease._member, lease._rest
        was_full = member.full
        member.in_flight -= 1
        tried = rest is not None and rest.probe is lease
        if tried and rest is not None:
            rest.probe = None
        if lease._claimed is not None and self._endpoints.unclaim(lease._claimed, lease):
            self._regroup()
            self.wake()
        if self._members.get(lease.account.name) is not member:
            return
        if was_full and not member.full:
            self._refresh(member)
            self.wake()
        elif tried:
            self._refresh(member, lease.model)
            self.wake(lease.model)

    def kind_of(self, name: str) -> str:
        """The kind of an account, by its name; ``gone`` for one that has been taken out of the configuration."""
        member = self._members.get(name)
        return "gone" if member is None else member.account.kind

    def load(self, account: Account) -> int:
        """How many requests `account` is serving."""
        return self._members[account.name].in_flight

    def loads(self) -> Mapping[str, int]:
        """How many requests each account is serving, by name, whenever one looks."""
        return _Loads(self._members)

    # What happened

    def succeeded(self, account: Account, model: str, lease: Lease | None = None) -> None:
        """
        An answer came: whatever was held against the account for the model is over.

        :param lease: of the request; one that was taken before the account began to rest says nothing about it.
        """
        member = self._current(account, lease)
        if member is None:
            return
        member.refused.clear()
        rest = member.rests.get(model)
        if rest is not None and (lease is None or lease._taken > rest.since):
            del member.rests[model]
            self._refresh(member, model)
            self.changed()
            self.wake(model)

    def failed(self, account: Account, model: str, verdict: Verdict, lease: Lease | None = None) -> None:
        """
        Draw the consequence of a failure for `account` and `model`.

        A probe that fails makes the next rest twice as long as what was stated, and so on, up to an hour.
        """
        member = self._current(account, lease)
        if member is None:  # taken out of the configuration while it was serving
            return
        now = self._now()
        known = member.rests.get(model)
        probe = known is not None and lease is not None and known.probe is lease
        strikes = 0
        if known is not None and known.until is not None and now - known.until < FORGET:
            strikes = known.strikes + probe
        all_models = False
        match verdict.fault:
            case Fault.CREDENTIAL:
                # Google refuses single calls of good credentials now and then: one model is not yet the whole account
                member.refused.add(model)
                if len(member.refused) >= REFUSED_MODELS:
                    member.disabled = f"its credential is refused ({verdict.reason})"
                    all_models = True
                rest = _Rest(Cause.DISABLED, f"its credential is refused ({verdict.reason})", None)
            case Fault.FORBIDDEN:
                rest = _Rest(Cause.DISABLED, verdict.reason, None)
            case Fault.NO_MODEL:
                rest = _Rest(Cause.MODEL, verdict.reason, now + MAX_COOLDOWN)
            case Fault.RATE | Fault.QUOTA:
                delay = UNSTATED_DELAY if verdict.delay is None else verdict.delay
                if verdict.fault is Fault.RATE and delay <= SHORT_DELAY and not probe:
                    return
                delay = min(max(delay, 1.0 if probe else 0.0) * 2.0 ** min(strikes, 20), MAX_COOLDOWN)
                rest = _Rest(Cause.RESTING, verdict.reason, now + delay)
            case _:
                return
        rest.since, rest.strikes = self._leases, strikes
        if known is None or rest.ends >= known.ends:  # of several requests in flight, the worst news counts
            member.rests.pop(model, None)
            member.rests[model] = rest
        forgotten: list[str] = []
        if len(member.rests) > MAX_RESTS:
            over = [name for name, it in member.rests.items() if it.ends <= now and it.probe is None]
            forgotten = over or [next(iter(member.rests))]
            for old in forgotten:
                del member.rests[old]
        self._refresh(member, None if all_models or forgotten else model)
        self.changed()
        self.wake(None if all_models else model, news=True)

    def disable(self, account: Account, reason: str, lease: Lease | None = None) -> None:
        """Take `account` out until a person acts."""
        member = self._current(account, lease)
        if member is not None:
            member.disabled = reason
            self._refresh(member)
            self.changed()
            self.wake(news=True)

    def note_quota(self, account: Account, model: str, remaining: float, resets_at: float) -> None:
        """
        Take down what an upstream reports of an account's quota for a model.

        While no more than the account's `reserve` is left, it is no candidate, until the reset or a better report; for
        an hour at most, because a report that is not repeated says nothing any more.

        :param remaining: the fraction that is left, from 0 to 1.
        :param resets_at: when the quota is whole again, in seconds of the pool's clock.
        """
        member = self._members.get(account.name)
        if member is None:
            return
        member.quotas.pop(model, None)
        member.quotas[model] = _Quota(remaining, min(resets_at, self._now() + MAX_NOTE_AGE))
        if len(member.quotas) > MAX_RESTS:
            oldest = next(iter(member.quotas))
            del member.quotas[oldest]
            self._refresh(member, oldest)
        self._refresh(member, model)
        self.changed()
        self.wake(model, news=True)

    # Endpoints

    def _endpoint_for(self, lease: Lease) -> int | None:
        urls, now = lease.account.endpoints, self._now()
        self._unclaim(lease)
        number = self._endpoints.pick(urls, lease.model, now, lease._tried)
        if number is None:
            return None
        lease._tried.add(number)
        if self._endpoints.claim(urls[number], lease):
            lease._claimed = urls[number]
            self._regroup()
        return number

    def first_endpoint(self, account: Account, model: str) -> str:
        """The endpoint that a new lease would ask first; nothing is taken or claimed."""
        number = self._endpoints.pick(account.endpoints, model, self._now(), set())
        return account.endpoints[number or 0]

    def endpoint_standing(self, url: str) -> tuple[str, float | None]:
        """How the breaker of an endpoint stands: its state, and the seconds until it may be tried."""
        return self._endpoints.standing(url, self._now())

    def _unclaim(self, lease: Lease) -> None:
        claimed, lease._claimed = lease._claimed, None
        if claimed is not None and self._endpoints.unclaim(claimed, lease):
            self._regroup()

    def endpoint_answered(self, url: str, model: str, *, good: bool) -> None:
        """An endpoint answered in Google's words: with an answer, or an error that is not its own fault (`good`)."""
        if self._endpoints.answered(url, model, good=good):
            self._regroup()
            self.wake()

    def endpoint_failed(self, url: str, model: str, trouble: Trouble, lease: Lease | None = None) -> None:
        """An endpoint failed; :mod:`agm.core.breaker` says what follows."""
        if self._endpoints.failed(url, model, trouble, self._now(), lease):
            self._regroup()
            self.wake(news=True)

    # Waiting

    def wait(self, model: str, method: str, offer: Callable[[], bool]) -> Ticket:
        """
        Stand in the line for a model.

        :param offer: called when there may be an account, in the order of arrival; takes it and returns True, or
            returns False to wait on.  It is also called when the outlook has changed for the worse, and may give up by
            returning True.  It must not raise.
        """
        self._tickets += 1
        ticket = Ticket(self, self._tickets, model, method, offer)
        self._lines.setdefault(model, OrderedDict())[ticket.number] = ticket
        return ticket

    def _left(self, ticket: Ticket) -> None:
        line = self._lines.get(ticket.model)
        if line is not None and line.pop(ticket.number, None) is not None and not line:
            del self._lines[ticket.model]

    def waiting(self, model: str | None = None) -> int:
        """How many requests stand in the line for a model, or in all lines."""
        return sum(map(len, self._lines.values())) if model is None else len(self._lines.get(model, ()))

    def wake(self, model: str | None = None, *, news: bool = False) -> None:
        """
        Offer what is ready to those who wait, for one model or for all, in the order in which they came.

        :param news: ask everybody, not only while something is ready: the outlook is another one.
        """
        if not self._lines:
            return
        for name in [model] if model is not None else list(self._lines):
            if name in self._lines:
                self._due[name] = self._due.get(name, False) or news
        if self._serving:  # an offer was taken, and its request has ended already
            return
        self._serving = True
        try:
            while self._due:
                due, self._due = self._due, {}
                tickets = [ticket for name in due for ticket in self._lines.get(name, {}).values()]
                for ticket in sorted(tickets, key=lambda ticket: ticket.number):
                    line = self._lines.get(ticket.model)
                    if line is None or ticket.number not in line:
                        continue
                    if (due[ticket.model] or self._group(ticket.model, ticket.method).ready) and ticket.offer():
                        self._left(ticket)
        finally:
            self._serving = False

    # Restarts

    def remember(self) -> dict[str, Remembered]:
        """What must survive a restart, by account; those of which nothing is known are left out."""
        now = self._now()
        found: dict[str, Remembered] = {}
        for name, member in self._members.items():
            if member.disabled is None and not member.rests and not member.quotas:
                continue
            rests = tuple(
                (model, rest.cause.name, rest.reason, None if rest.until is None else rest.until - now, rest.strikes)
                for model, rest in member.rests.items()
                if rest.ends > now - FORGET
            )
            quotas = tuple((model, it.left, it.until - now) for model, it in member.quotas.items() if it.until > now)
            if member.disabled is not None or rests or quotas:
                found[name] = Remembered(member.disabled, rests, quotas)
        return found

    def restore(self, name: str, remembered: Remembered) -> None:
        """Go on with what was known of an account before a restart."""
        member = self._members.get(name)
        if member is None:
            return
        now = self._now()
        member.disabled = remembered.disabled
        for model, cause, reason, left, strikes in remembered.rests[-MAX_RESTS:]:
            until = None if left is None else now + min(left, MAX_COOLDOWN)
            member.rests[model] = _Rest(Cause[cause], reason, until, self._leases, strikes)
        for model, fraction, seconds in remembered.quotas[-MAX_RESTS:]:
            member.quotas[model] = _Quota(fraction, now + min(seconds, MAX_NOTE_AGE))
        self._refresh(member)
        self.wake(news=True)


def _sort(account: Account) -> tuple[str, tuple[str, ...]]:
    """What decides whether an account has a method and a model."""
    return account.kind, account.models.patterns


def _likes(method: str) -> str:
    """One method for all that the same kinds have, so that they share their groups."""
    return _LIKES.get(method, method)


_LIKES: Mapping[str, str] = {
    method: min(
        other
        for other in set().union(*kinds.METHODS.values())
        if all((other in methods) == (method in methods) for methods in kinds.METHODS.values())
    )
    for method in set().union(*kinds.METHODS.values())
}
_ALL_LIKES = sorted(set(_LIKES.values()))


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
    what = f"models/{model}" if model else method
    reasons = ", ".join(
        f"{sum(e.cause is c for e in having)} {c.value}" for c in Cause if any(e.cause is c for e in having)
    )
    if all(e.cause is Cause.ENDPOINT for e in having):
        return Unavailable(
            f"No account can serve {what} now ({reasons}). Please retry in {wait:.3f}s.",
            reason="ENDPOINTS_FAIL",
            retry_after=wait,
        )
    if wait is not None:
        return TooManyRequests(
            f"No account can serve {what} now ({reasons}). Please retry in {wait:.3f}s.",
            reason="ALL_ACCOUNTS_RESTING",
            retry_after=wait,
        )
    return Unavailable(f"No account can serve {what} ({reasons}).", reason="NO_ACCOUNT_READY", retry_after=PERSON_WAIT)
