"""
The pool of accounts: who can serve which model now, who is serving, who cools down, and who waits.

It is the one place where any of this changes.  What is known of an account is in :mod:`agm.core.pool.cooldown`, who of
them is ready in :mod:`agm.core.pool.groups`, who waits in :mod:`agm.core.pool.waiters`, and what a client is told when
nobody is left in :mod:`agm.core.pool.exclusions`.

An account is used through a :class:`~agm.core.pool.lease.Lease`, which is given back exactly once.  What a failure
means comes from :mod:`agm.core.classify`; the pool draws the consequence for the account and model it happened to.
When a cooldown is over, one request is let through as a probe: nobody else gets the account for that model until the
probe has told how it is.

Time is handed in.  Nothing here waits: who has to is put in a queue, and called when there may be an account for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping

from agm.core.classify import Fault, Verdict
from agm.core.pool.breaker import Consequence, Endpoints, Trouble
from agm.core.pool.candidates import AccountOrder, Candidates
from agm.core.pool.cooldown import (
    ABOUT_THE_ACCOUNT,
    ALL_MODELS,
    LACKING_SECONDS,
    Cooldown,
    KnownCooldown,
    Lack,
    Loads,
    Member,
    Quota,
    Remembered,
    cooldown_after,
)
from agm.core.pool.exclusions import Cause, Exclusion
from agm.core.pool.groups import Group, eligibility_key, method_classes
from agm.core.pool.lease import Lease
from agm.core.pool.waiters import NOBODYS, Share, Waiter, WaitQueue
from agm.core.request import Account

__all__ = ["Pool"]

#: How many models an account remembers cooling down for, or lacking: model names are the clients' to invent.
MAX_COOLDOWNS = 1000
#: An account is in doubt once it has refused so many conversations without a reason of its own, and served none.
DOUBTING_CONVERSATIONS = 2
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
    :ivar went_off: called with an account that has become disabled, and why.
    :ivar told: called with an account's name, a model (``*`` for all of them at once; None for all, each) and the
        cooldown that has begun or, None, ended here; not with what was learnt from elsewhere.
    """

    def __init__(self, accounts: Iterable[Account], now: Callable[[], float]) -> None:
        self._now = now
        self._members: dict[str, Member] = {}
        self._groups: OrderedDict[tuple[str, str, str], Group] = OrderedDict()
        #: Until when some account is known to lack a model, in some version or method.
        self._lacked: dict[str, float] = {}
        self._orders: dict[frozenset[tuple[str, tuple[str, ...]]], AccountOrder] = {}
        self._by_eligibility: dict[tuple[str, tuple[str, ...]], Account] = {}
        self._endpoints = Endpoints()
        self._leases = 0
        self._queue = WaitQueue(lambda model, method, version: bool(self._group(model, method, version).ready))
        self.changed: Callable[[], None] = lambda: None
        self.went_off: Callable[[Account, Cooldown], object] = lambda account, why: None
        self.told: Callable[[str, str | None, KnownCooldown | None], None] = lambda name, model, known: None
        self.replace(accounts, ())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts, in the order of the configuration."""
        return tuple(member.account for member in self._members.values())

    # Choosing

    def candidates(self, model: str, method: str, without: Collection[str] = (), version: str = "") -> Candidates:
        """
        Return the accounts that can serve `method` of `model` now, by priority and in the order of the configuration.

        An empty `model` is that of requests about files and the like: every account has it.

        :param without: names of accounts to leave out.
        """
        group = self._group(model, method, version)
        return Candidates(group.ready, without=without) if without else group.candidates

    def excluded(self, model: str, method: str, version: str = "") -> list[Exclusion]:
        """Explain why each other account is no candidate.  This looks at every account: it is for explanations."""
        now = self._now()
        found = (member.exclusion(model, method, now, self._endpoints, version) for member in self._members.values())
        return [exclusion for exclusion in found if exclusion is not None]

    def _group(self, model: str, method: str, version: str = "") -> Group:
        """Return the group of a model and method, in which every cooldown that is over has ended."""
        now = self._now()
        lacked = self._lacked.get(model) if self._lacked else None
        if lacked is None:
            key = (model, self._method_class.get(method, method), "")
        elif lacked > now:  # the version and the very method matter
            key = (model, method, version)
        else:
            self._forget_lacks(model)
            key = (model, self._method_class.get(method, method), "")
        group = self._groups.get(key)
        if group is None or group.until <= now:
            order = self._order(model, method)
            members, endpoints = self._members, self._endpoints
            states = [members[it.name].state(model, now, endpoints, version, method) for it in order.accounts]
            group = self._groups[key] = Group(order, states)
            if lacked is not None and lacked > now:
                lack = (model, version, method)
                ends = (members[it.name].lacks.get(lack, 0.0) for it in order.accounts)
                group.until = min((end for end in ends if end > now), default=lacked)
            self._groups.move_to_end(key)
            if len(self._groups) > MAX_GROUPS:
                self._groups.popitem(last=False)
            return group
        self._groups.move_to_end(key)
        while (found := group.next_recovery()) is not None and found[0] <= now:
            place = found[1]
            member = self._members[group.order.accounts[place].name]
            group.put(place, *member.state(model, now, self._endpoints, version, method))
        return group

    def _note_lack(self, member: Member, lack: Lack, until: float) -> None:
        """Keep in mind that an account lacks a model, in a version and a method."""
        member.lacks.pop(lack, None)
        member.lacks[lack] = until
        if len(member.lacks) > MAX_COOLDOWNS:
            del member.lacks[next(iter(member.lacks))]
        self._lacked.pop(lack[0], None)
        self._lacked[lack[0]] = until
        if len(self._lacked) > MAX_COOLDOWNS:
            self._forget_lacks(next(iter(self._lacked)))
        self._drop_groups(lack[0])

    def _forget_lacks(self, model: str) -> None:
        for member in self._members.values():
            for lack in [lack for lack in member.lacks if lack[0] == model]:
                del member.lacks[lack]
        self._lacked.pop(model, None)
        self._drop_groups(model)

    def _drop_groups(self, model: str) -> None:
        for key in [key for key in self._groups if key[0] == model]:
            del self._groups[key]

    def _order(self, model: str, method: str) -> AccountOrder:
        having = frozenset(
            key
            for key, one in self._by_eligibility.items()
            if method in one.methods and (not model or model in one.models)
        )
        order = self._orders.get(having)
        if order is None:
            accounts = (member.account for member in self._members.values())
            order = self._orders[having] = AccountOrder.of(
                account for account in accounts if eligibility_key(account) in having
            )
        return order

    def _refresh(self, member: Member, model: str | None = None) -> None:
        """Put an account in its place, in the groups of one model or of all, after its state has changed."""
        name, now = member.account.name, self._now()
        for (served, method, version), group in self._groups.items():
            if model is None or served == model:
                place = group.order.place.get(name)
                if place is not None:
                    group.put(place, *member.state(served, now, self._endpoints, version, method))

    def _regroup(self) -> None:
        """Derive all groups anew when they are next asked for."""
        self._groups.clear()

    def soonest(self, model: str, method: str, without: Collection[str] = (), version: str = "") -> float | None:
        """
        Seconds until an account that is no candidate may be one: 0 where that may be at any moment, as when one is
        full; None if it takes a person.

        :param without: names of accounts that are of no use.
        """
        group = self._group(model, method, version)
        useless = {place for name in without if (place := group.order.place.get(name)) is not None}
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
                known = Member.of(account)
            known.account = account
            members[account.name] = known
        self._members = members
        self._loads = Loads(members)
        for model in [
            model for model in self._lacked if not any(lack[0] == model for m in members.values() for lack in m.lacks)
        ]:
            del self._lacked[model]
        self._by_eligibility = {eligibility_key(member.account): member.account for member in members.values()}
        self._method_class = method_classes(member.account for member in members.values())
        self._orders.clear()
        self._endpoints.keep([url for member in members.values() for url in member.account.endpoints])
        self._regroup()
        self.changed()
        self.wake()

    def _current(self, account: Account, lease: Lease | None) -> Member | None:
        """Find the member that news of an account is about; None if it has left or was replaced under its name."""
        member = self._members.get(account.name)
        return None if lease is not None and lease.member is not member else member

    # Leases

    def lease(self, account: Account, model: str, method: str = "", version: str = "") -> Lease:
        """Take a candidate for one request for `model`; the first one after a cooldown is its probe."""
        member = self._members[account.name]
        probed: tuple[Cooldown, ...] = ()
        if member.cooldowns or member.held is not None:
            now = self._now()
            probed = tuple(
                cooldown for cooldown in member.cooldowns_of(model) if cooldown.probe is None and cooldown.ends <= now
            )
        self._leases += 1
        member.in_flight += 1
        lease = Lease(self, member, model, probed, self._leases, version, method)
        for cooldown in probed:
            cooldown.probe = lease
        if probed:
            self._refresh(member, None if member.held in probed else model)
        if member.full:
            self._refresh(member)
        return lease

    def take_back(self, lease: Lease) -> None:
        """Take a lease back, once; see :meth:`Lease.release <agm.core.pool.lease.Lease.release>`."""
        member = lease.member
        was_full = member.full
        member.in_flight -= 1
        ended = [cooldown for cooldown in lease.probed if cooldown.probe is lease]
        for cooldown in ended:
            cooldown.probe = None
        if lease.claimed is not None and self._endpoints.unclaim(lease.claimed, lease):
            self._regroup()
            self.wake()
        if self._members.get(lease.account.name) is not member:
            return
        if (was_full and not member.full) or (ended and member.held in ended):
            self._refresh(member)
            self.wake()
        elif ended:
            self._refresh(member, lease.model)
            self.wake(lease.model)

    def kind_of(self, name: str) -> str:
        """Return the kind of an account, by its name; ``gone`` for one that has been taken out of the configuration."""
        member = self._members.get(name)
        return "gone" if member is None else member.account.kind

    def load(self, account: Account) -> int:
        """Count the requests in flight on `account`."""
        return self._members[account.name].in_flight

    def is_full(self, account: Account) -> bool:
        """Tell whether `account` serves as many requests as it may, or has left the configuration."""
        member = self._members.get(account.name)
        return member is None or member.full

    def loads(self) -> Mapping[str, int]:
        """Return a live view of the requests in flight on each account, by name."""
        return self._loads

    # What happened

    def succeeded(self, account: Account, model: str, lease: Lease | None = None) -> None:
        """
        An answer came: whatever was held against the account, and against the model on it, is over.

        :param lease: of the request; one that was taken before the account began to cool down says nothing about it.
        """
        member = self._current(account, lease)
        if member is None:
            return
        if member.doubts:
            member.doubts.pop(model, None)
        if member.held is None and not member.cooldowns:
            return
        held, cooldown = member.held, member.cooldowns.get(model)
        if held is not None and (lease is None or lease.taken > held.since):
            member.held = None
        else:
            held = None
        if cooldown is not None and (lease is None or lease.taken > cooldown.since):
            del member.cooldowns[model]
        else:
            cooldown = None
        if held is not None or cooldown is not None:
            self._refresh(member, model if held is None else None)
            self.changed()
            for over in ([] if held is None else [ALL_MODELS]) + ([] if cooldown is None else [model]):
                self.told(account.name, over, None)
            self.wake(model if held is None else None)

    def failed(self, account: Account, model: str, verdict: Verdict, lease: Lease | None = None) -> None:
        """
        Draw the consequence of a failure for `account` and `model`.

        A probe that fails makes the next cooldown twice as long as what was stated, and so on, up to an hour.
        """
        member = self._current(account, lease)
        if member is None:  # taken out of the configuration while it was serving
            return
        now = self._now()
        if verdict.fault is Fault.NO_MODEL:
            version, method = ("", "") if lease is None else (lease.version, lease.method)
            self._note_lack(member, (model, version, method), now + LACKING_SECONDS)
            self.wake(model, news=True)
            return
        all_models = verdict.fault in ABOUT_THE_ACCOUNT
        known = member.held if all_models else member.cooldowns.get(model)
        probe = known is not None and lease is not None and known.probe is lease
        cooldown = cooldown_after(verdict, now, known, probe=probe)
        if cooldown is None:
            return
        cooldown.since = self._leases
        worse = known is None or cooldown.ends >= known.ends
        if worse:  # of several requests in flight, the worst news counts
            if all_models:
                member.held = cooldown
            else:
                member.cooldowns.pop(model, None)
                member.cooldowns[model] = cooldown
        if member.held is cooldown and cooldown.until is None and (known is None or known.until is not None):
            self.went_off(account, cooldown)
        forgotten: list[str] = []
        if len(member.cooldowns) > MAX_COOLDOWNS:
            over = [name for name, it in member.cooldowns.items() if it.ends <= now and it.probe is None]
            forgotten = over or [next(iter(member.cooldowns))]
            for old in forgotten:
                del member.cooldowns[old]
        self._refresh(member, None if all_models or forgotten else model)
        self.changed()
        if worse:
            of = ALL_MODELS if all_models else model
            self.told(account.name, of, cooldown.known(of, now))
        self.wake(None if all_models else model, news=True)

    def doubt(self, account: Account, model: str, conversation: str, lease: Lease | None = None) -> bool:
        """
        Take down that an account has refused a conversation without a reason of its own.

        :param conversation: what tells it from others.
        :returns: whether it is in doubt by now, so that the gateway should ask a question of its own.
        """
        member = self._current(account, lease)
        if member is None:
            return False
        refused = member.doubts.setdefault(model, set())
        refused.add(conversation)
        if len(member.doubts) > MAX_COOLDOWNS:
            del member.doubts[next(iter(member.doubts))]
        probing = lease is not None and any(cooldown.probe is lease for cooldown in member.cooldowns_of(model))
        return probing or len(refused) >= DOUBTING_CONVERSATIONS

    def trust(self, account: Account, model: str) -> None:
        """Forget the doubts: the account has answered a question of the gateway's own."""
        member = self._members.get(account.name)
        if member is not None:
            member.doubts.pop(model, None)

    def disable(self, account: Account, reason: str, lease: Lease | None = None, link: str | None = None) -> None:
        """Take `account` out until manual action."""
        member = self._current(account, lease)
        if member is not None:
            was_off = member.held is not None and member.held.until is None
            member.held = Cooldown(Cause.DISABLED, reason, None, self._leases, link=link)
            if not was_off:
                self.went_off(account, member.held)
            self._refresh(member)
            self.changed()
            self.told(account.name, ALL_MODELS, member.held.known(ALL_MODELS, self._now()))
            self.wake(news=True)

    def reset(self, name: str, model: str | None = None) -> bool:
        """
        Take back what is held against an account, for one model or for all.

        :returns: whether there was anything.
        :raises KeyError: if there is no such account.
        """
        member = self._members[name]
        found = member.forget(model)
        if model is None:
            found = self._endpoints.forget(member.account.endpoints) or found
        self.told(name, model, None)
        if found:
            self._regroup()
            self.changed()
            self.wake(news=True)
        return found

    def learn(self, name: str, model: str | None, known: KnownCooldown | None) -> None:
        """
        Take in what another process has found out; see :attr:`told`.

        :raises KeyError: if the cause of the cooldown is none that is known here.
        """
        member = self._members.get(name)
        if member is None:
            return
        if known is not None:
            cooldown = Cooldown.of(known, self._now(), self._leases)
            if known.model != ALL_MODELS:
                member.cooldowns.pop(known.model, None)
                member.cooldowns[known.model] = cooldown
                if len(member.cooldowns) > MAX_COOLDOWNS:
                    del member.cooldowns[next(iter(member.cooldowns))]
            elif member.account.unusable is None:
                member.held = cooldown
        elif model == ALL_MODELS:
            member.held = None
            member.hold_unusable()
        else:
            member.forget(model)
        self._regroup()
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
        now, before = self._now(), member.quotas.pop(model, None)
        began, was = now, remaining
        if before is not None and before.noted and remaining <= before.left and now < before.resets:
            began, was = before.began, before.was
        member.quotas[model] = Quota(remaining, min(resets_at, now + MAX_NOTE_AGE), resets_at, now, began, was)
        if len(member.quotas) > MAX_COOLDOWNS:
            oldest = next(iter(member.quotas))
            del member.quotas[oldest]
            self._refresh(member, oldest)
        self._refresh(member, model)
        self.changed()
        self.wake(model, news=True)

    def quota_out_in(self, name: str, model: str) -> float | None:
        """Seconds until what an upstream reports of a quota comes down to the account's reserve; None if not known."""
        member = self._members.get(name)
        quota = None if member is None else member.quotas.get(model)
        return None if member is None or quota is None else quota.out_in(member.account.reserve, self._now())

    # Budgets

    @property
    def over_budget(self) -> set[str]:
        """The names of accounts that are over their budget, or were."""
        return {name for name, member in self._members.items() if member.over_budget is not None}

    def exceeded_budget(self, name: str, reason: str, seconds: float) -> None:
        """Take an account out, for all models and so many seconds: its budget is spent."""
        member = self._members.get(name)
        if member is not None:
            member.over_budget = (reason, self._now() + seconds)
            self._refresh(member)
            self.wake(news=True)

    def within_budget(self, name: str) -> None:
        """Let an account in again that was over its budget."""
        member = self._members.get(name)
        if member is not None and member.over_budget is not None:
            member.over_budget = None
            self._refresh(member)
            self.wake()

    # Endpoints

    def endpoint_for(self, lease: Lease) -> int | None:
        """Choose an endpoint for :meth:`Lease.next_endpoint <agm.core.pool.lease.Lease.next_endpoint>`."""
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
        """Return the endpoint that a new lease would ask first; nothing is taken or claimed."""
        number = self._endpoints.pick(account.endpoints, model, self._now(), set())
        return account.endpoints[number or 0]

    def endpoint_standing(self, url: str) -> tuple[str, float | None]:
        """Return the state of an endpoint's breaker, and the seconds until a probe."""
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

    def endpoint_failed(self, url: str, model: str, trouble: Trouble, lease: Lease | None = None) -> bool:
        """
        Return an endpoint failed; :mod:`agm.core.pool.breaker` says what follows.

        :returns: whether it is in doubt, so that the gateway should ask it a question of its own.
        """
        consequence = self._endpoints.failed(url, model, trouble, self._now(), lease)
        if consequence is not Consequence.NONE:
            self._regroup()
            self.wake(news=True)
        return consequence is Consequence.DOUBT

    def confirm_endpoint_failure(self, url: str) -> None:
        """Leave an endpoint alone for a while: it did not answer the gateway's own question either."""
        self._endpoints.confirm_failure(url, self._now())
        self._regroup()
        self.wake(news=True)

    # Waiting

    def wait(
        self,
        model: str,
        method: str,
        try_acquire: Callable[[], bool],
        version: str = "",
        share: Share = NOBODYS,
    ) -> Waiter:
        """
        Join the queue for a model.

        :param try_acquire: called when there may be an account, in turn; takes it and returns True, or returns False to
            wait on.  It is also called when the outlook has changed for the worse, and may give up by returning True.
            It must not raise.
        :param share: whose turn it is: keys by their weight, batches last.
        """
        return self._queue.join(model, method, try_acquire, version, share)

    def waiting(self, model: str | None = None) -> int:
        """Return how many requests wait in the queue for a model, or in all of them."""
        return len(self._queue) if model is None else self._queue.of(model)

    def wake(self, model: str | None = None, *, news: bool = False) -> None:
        """
        Offer what is ready to those who wait, for one model or for all, in turn.

        :param news: ask everybody, not only while something is ready: the outlook is another one.
        """
        self._queue.wake(model, news=news)

    # Restarts

    def remember(self) -> dict[str, Remembered]:
        """Return the state that must survive a restart, by account; accounts without any are left out."""
        now = self._now()
        found = ((name, member.remembered(now)) for name, member in self._members.items())
        return {name: remembered for name, remembered in found if remembered is not None}

    def restore(self, name: str, remembered: Remembered) -> None:
        """Go on with what was known of an account before a restart."""
        member = self._members.get(name)
        if member is None:
            return
        now = self._now()
        if member.account.unusable is None:
            member.held = None if remembered.held is None else Cooldown.of(remembered.held, now, self._leases)
        for cooldown in remembered.cooldowns[-MAX_COOLDOWNS:]:
            member.cooldowns[cooldown.model] = Cooldown.of(cooldown, now, self._leases)
        for model, fraction, seconds in remembered.quotas[-MAX_COOLDOWNS:]:
            member.quotas[model] = Quota(fraction, now + min(seconds, MAX_NOTE_AGE))
        self._refresh(member)
        self.wake(news=True)
