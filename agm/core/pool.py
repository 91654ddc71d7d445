"""
The pool of accounts: who can serve which model now, who is serving, who has to rest, and who waits.

It is the one place where any of this changes.  What is known of an account is in :mod:`agm.core.rests`, who of them is
ready in :mod:`agm.core.groups`, who waits in :mod:`agm.core.waiting`, and what a client is told when nobody is left in
:mod:`agm.core.exclusions`.

An account is used through a :class:`~agm.core.lease.Lease`, which is given back exactly once.  What a failure means
comes from :mod:`agm.core.classify`; the pool draws the consequence for the account and model it happened to.  When a
rest is over, one request is let through as a probe: nobody else gets the account for that model until the probe has
told how it is.

Time is handed in.  Nothing here waits: who has to is put in a line, and called when there may be an account for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping

from agm.core import kinds
from agm.core.breaker import Endpoints, Trouble
from agm.core.candidates import Candidates, Roll
from agm.core.classify import MAX_COOLDOWN, Fault, Verdict
from agm.core.exclusions import Cause, Exclusion
from agm.core.groups import ALL_LIKES, Group, likes, sort_of
from agm.core.lease import Lease
from agm.core.request import Account
from agm.core.rests import Loads, Member, Quota, Remembered, Rest, rest_after
from agm.core.waiting import Lines, Ticket

__all__ = ["Pool"]

#: A credential is taken for bad as a whole once this many models in a row were refused with it.
REFUSED_MODELS = 2
#: How many models an account remembers resting for: model names are the clients' to invent.
MAX_RESTS = 1000
#: How many models the pool keeps groups for; the one that was not asked for the longest goes first.
MAX_GROUPS = 64
#: What is known of a quota says nothing after so many seconds; who reports it reports it again.
MAX_NOTE_AGE = 3600.0


class Pool:
    """
    The accounts and what is known of them.

    :param accounts: in the order of the configuration.
    :param now: seconds of a clock that never goes back.
    :ivar changed: called whenever something changes that must survive a restart.
    """

    def __init__(self, accounts: Iterable[Account], now: Callable[[], float]) -> None:
        self._now = now
        self._members: dict[str, Member] = {}
        self._groups: OrderedDict[tuple[str, str], Group] = OrderedDict()
        self._rolls: dict[frozenset[tuple[str, tuple[str, ...]]], Roll] = {}
        self._sorts: dict[tuple[str, tuple[str, ...]], Account] = {}
        self._endpoints = Endpoints()
        self._leases = 0
        self._lines = Lines(lambda model, method: bool(self._group(model, method).ready))
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
        group = self._group(model, method)
        return Candidates(group.ready, without=without) if without else group.candidates

    def excluded(self, model: str, method: str) -> list[Exclusion]:
        """Why each of the other accounts is no candidate.  This looks at every account: it is for explanations."""
        now = self._now()
        found = (member.exclusion(model, method, now, self._endpoints) for member in self._members.values())
        return [exclusion for exclusion in found if exclusion is not None]

    def _group(self, model: str, method: str) -> Group:
        """The group of a model and method, in which every rest that is over has ended."""
        key = (model, likes(method))
        group = self._groups.get(key)
        now = self._now()
        if group is None:
            roll = self._roll(model, method)
            members, endpoints = self._members, self._endpoints
            group = Group(roll, [members[account.name].state(model, now, endpoints) for account in roll.accounts])
            self._groups[key] = group
            if len(self._groups) > MAX_GROUPS:
                self._groups.popitem(last=False)
            return group
        self._groups.move_to_end(key)
        while (found := group.next_recovery()) is not None and found[0] <= now:
            place = found[1]
            group.put(place, *self._members[group.roll.accounts[place].name].state(model, now, self._endpoints))
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
            roll = self._rolls[having] = Roll.of(account for account in accounts if sort_of(account) in having)
        return roll

    def _refresh(self, member: Member, model: str | None = None) -> None:
        """Put an account in its place, in the groups of one model or of all, after its state has changed."""
        name, now = member.account.name, self._now()
        if model is None:
            groups = list(self._groups.items())
        else:
            keys = [(model, like) for like in ALL_LIKES]
            groups = [(key, self._groups[key]) for key in keys if key in self._groups]
        for (served, _), group in groups:
            place = group.roll.place.get(name)
            if place is not None:
                group.put(place, *member.state(served, now, self._endpoints))

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
        members: dict[str, Member] = {}
        for account in accounts:
            known = self._members.get(account.name) if account.name in keep else None
            if known is None:
                known = Member(account, disabled=account.unusable)
            known.account = account
            members[account.name] = known
        self._members = members
        self._loads = Loads(members)
        self._sorts = {sort_of(member.account): member.account for member in members.values()}
        self._rolls.clear()
        self._endpoints.keep([url for member in members.values() for url in member.account.endpoints])
        self._regroup()
        self.changed()
        self.wake()

    def _current(self, account: Account, lease: Lease | None) -> Member | None:
        """Whom news of an account is about: nobody if it has left, or is another one under the same name by now."""
        member = self._members.get(account.name)
        return None if lease is not None and lease.member is not member else member

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

    def take_back(self, lease: Lease) -> None:
        """What :meth:`Lease.release <agm.core.lease.Lease.release>` asks for, once."""
        member, rest = lease.member, lease.rest
        was_full = member.full
        member.in_flight -= 1
        tried = rest is not None and rest.probe is lease
        if tried and rest is not None:
            rest.probe = None
        if lease.claimed is not None and self._endpoints.unclaim(lease.claimed, lease):
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
        return self._loads

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
        if rest is not None and (lease is None or lease.taken > rest.since):
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
        rest = rest_after(verdict, now, known, probe=probe)
        if rest is None:
            return
        all_models = False
        if verdict.fault is Fault.CREDENTIAL:
            # Google refuses single calls of good credentials now and then: one model is not yet the whole account
            member.refused.add(model)
            if len(member.refused) >= REFUSED_MODELS:
                member.disabled = rest.reason
                all_models = True
        rest.since = self._leases
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
        member.quotas[model] = Quota(remaining, min(resets_at, self._now() + MAX_NOTE_AGE))
        if len(member.quotas) > MAX_RESTS:
            oldest = next(iter(member.quotas))
            del member.quotas[oldest]
            self._refresh(member, oldest)
        self._refresh(member, model)
        self.changed()
        self.wake(model, news=True)

    # Endpoints

    def endpoint_for(self, lease: Lease) -> int | None:
        """What :meth:`Lease.next_endpoint <agm.core.lease.Lease.next_endpoint>` asks for."""
        urls = lease.account.endpoints
        if self._endpoints.unsuspected and not lease.tried and urls:
            lease.tried.add(0)
            return 0
        now = self._now()
        self._unclaim(lease)
        number = self._endpoints.pick(urls, lease.model, now, lease.tried)
        if number is None:
            return None
        lease.tried.add(number)
        if self._endpoints.claim(urls[number], lease):
            lease.claimed = urls[number]
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
        claimed, lease.claimed = lease.claimed, None
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
        return self._lines.join(model, method, offer)

    def waiting(self, model: str | None = None) -> int:
        """How many requests stand in the line for a model, or in all lines."""
        return len(self._lines) if model is None else self._lines.of(model)

    def wake(self, model: str | None = None, *, news: bool = False) -> None:
        """
        Offer what is ready to those who wait, for one model or for all, in the order in which they came.

        :param news: ask everybody, not only while something is ready: the outlook is another one.
        """
        self._lines.wake(model, news=news)

    # Restarts

    def remember(self) -> dict[str, Remembered]:
        """What must survive a restart, by account; those of which nothing is known are left out."""
        now = self._now()
        found = ((name, member.remembered(now)) for name, member in self._members.items())
        return {name: remembered for name, remembered in found if remembered is not None}

    def restore(self, name: str, remembered: Remembered) -> None:
        """Go on with what was known of an account before a restart."""
        member = self._members.get(name)
        if member is None:
            return
        now = self._now()
        member.disabled = member.account.unusable or remembered.disabled
        for model, cause, reason, left, strikes in remembered.rests[-MAX_RESTS:]:
            until = None if left is None else now + min(left, MAX_COOLDOWN)
            member.rests[model] = Rest(Cause[cause], reason, until, self._leases, strikes)
        for model, fraction, seconds in remembered.quotas[-MAX_RESTS:]:
            member.quotas[model] = Quota(fraction, now + min(seconds, MAX_NOTE_AGE))
        self._refresh(member)
        self.wake(news=True)
