"""
What a gateway shares with the others of its cluster: cooldowns of accounts, the owners of resources, the counts of a
day, and what plugins ask for.

A process decides from what it knows itself, and tells the others what it has found out; what they tell is taken in as
if it had happened here.  A gateway that is alone has the same, with a store in its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from agm.cluster.events import TOMBSTONE, Event, Ledger
from agm.cluster.store import Store, StoreAway
from agm.core.limits import DAY, Allowances
from agm.core.ownership import KnownOwners, Maker
from agm.core.pool.cooldown import ALL_MODELS, KnownCooldown
from agm.core.pool.pool import Pool

__all__ = ["Cluster", "Counter"]

log = Logger()

_COOLDOWN = "cooldown"
_OWNER = "owner"
_PLUGIN = "plugin"
#: Seconds for which a counter is kept after it was last added to.
COUNTER_LIFE = 40 * 86_400
#: Seconds after its end for which a cooldown is told: its strikes count for the next one.
_AFTERWARDS = 600.0
#: Seconds for which the owner of a resource is told: Google keeps the longest of them for 55 days.
_OWNED = 60 * 86_400.0
#: Seconds between a change of a day's counts and their telling.
_COUNTED_AFTER = 0.05
#: Seconds for which the counts of a day are kept.
_DAY_LIFE = 3 * 86_400


class SharedDays:
    """
    The requests and tokens of client keys on this day, in agreement with other processes: each has its own count in
    the store, whole, so that a repeat or a lost reply counts nothing twice.

    :param wall: seconds since the epoch.
    """

    def __init__(self, reactor: IReactorTime, store: Store, allowances: Allowances, wall: Callable[[], float]) -> None:
        self._reactor = reactor
        self._store = store
        self._allowances = allowances
        self._wall = wall
        self._changed: dict[str, None] = {}
        self._timer: IDelayedCall | None = None
        allowances.counted = self._note

    def tell_all(self) -> None:
        """Tell what the store may have missed."""
        for name in self._allowances.used_today():
            self._note(name)

    def stop(self) -> None:
        """Tell no more."""
        self._allowances.counted = lambda name: None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _note(self, name: str) -> None:
        self._changed[name] = None
        if self._timer is None:
            self._timer = self._reactor.callLater(_COUNTED_AFTER, self._tell)

    def _tell(self) -> None:
        self._timer = None
        names, self._changed = list(self._changed), {}
        for name in names:
            Deferred.fromCoroutine(self._tell_one(name))

    async def _tell_one(self, name: str) -> None:
        day, (requests, tokens) = int(self._wall() // DAY), self._allowances.own_today(name)
        try:
            all_requests = await self._store.count(f"day:{day}:requests:{name}", requests, _DAY_LIFE)
            all_tokens = await self._store.count(f"day:{day}:tokens:{name}", tokens, _DAY_LIFE)
        except StoreAway:
            return  # all is told again when it is back
        self._allowances.others(name, day, all_requests - requests, all_tokens - tokens)


class Counter:
    """A number that all processes add to.  :meth:`Cluster.counter` makes it."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._own = 0
        self._total = 0

    @property
    def total(self) -> int:
        """The sum over all processes as far as it is known here, with all that was added here."""
        return self._total

    async def add(self, amount: int = 1) -> int:
        """
        Add to it, and return the sum over all processes.

        :param amount: 0 to ask for the sum.
        :raises ValueError: if it is negative.
        :raises agm.api.StoreAway: if the store does not answer within 50 ms.  What was added counts all the same, here
            at once and for the others with the next addition.
        """
        if amount < 0:
            raise ValueError("a counter only grows")
        self._own += amount
        self._total += amount
        self._total = max(self._total, await self._store.count(self._name, self._own, COUNTER_LIFE))
        return self._total


class Cluster:
    """
    The cluster, for the gateway and for plugins: ``gateway.cluster``.

    :param wall: seconds since the epoch.
    :param shared: whether there are other processes, or may be.
    """

    def __init__(
        self,
        store: Store,
        pool: Pool,
        owners: KnownOwners,
        allowances: Allowances,
        wall: Callable[[], float],
        *,
        shared: bool,
    ) -> None:
        self.store = store
        self.shared = shared
        self._ledger = Ledger(wall)
        self._origins: Mapping[str, str] = {}
        store.told, store.changed = self._told, self._changed
        self._pool = pool
        self._owners = owners
        self._allowances = allowances
        self._days: SharedDays | None = None
        self._learning = False
        self._wall = wall
        self._counters: dict[str, Counter] = {}
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._last = 0.0

    def start(self, reactor: IReactorTime) -> None:
        """Begin to tell and to listen."""
        if self.shared:
            self._pool.told = self._tell_cooldown
            self._owners.told = self._tell_owner
            self._days = SharedDays(reactor, self.store, self._allowances, self._wall)
        self.store.start()

    def stop(self) -> Deferred[None]:
        """End that."""
        self._pool.told = lambda name, model, known: None
        self._owners.told = lambda name: None
        if self._days is not None:
            self._days.stop()
        return self.store.stop()

    def accounts_are(self, origins: Mapping[str, str]) -> None:
        """
        Take note of the accounts in force, and learn what is known of those that were not there before.

        :param origins: of each, by name, a digest of what it was made from: what is known of an account of this name
            with another key says nothing about it.
        """
        new = {name for name, origin in origins.items() if self._origins.get(name) != origin}
        self._origins = dict(origins)
        for key in self._ledger.items(_COOLDOWN) if new else ():
            event = self._ledger.get(_COOLDOWN, key)
            if event is not None and key.partition("\0")[0] in new:
                self._learn(event)

    # For plugins

    def counter(self, name: str) -> Counter:
        """
        Return a counter that all processes add to; the same one for the same name.

        It never falls: what is counted anew each day has the day in its name.
        """
        if name not in self._counters:
            self._counters[name] = Counter(self.store, f"plugin:{name}")
        return self._counters[name]

    async def claim(self, what: str, seconds: float) -> bool:
        """
        Claim something for so long, so that one process alone does it; False where another one has it.

        :raises agm.api.StoreAway: if the store does not answer within 50 ms.
        """
        return await self.store.claim(f"plugin:{what}", seconds)

    def tell(self, topic: str, value: Any, seconds: float = 3600.0) -> None:
        """
        Tell all processes a value, this one too; the last one told is also heard by those that start later.

        :param value: a JSON value, but None.
        :param seconds: how long it is worth telling.
        """
        if value is None:
            raise ValueError("None tells nothing")
        msgspec.json.encode(value)
        self._tell(_PLUGIN, topic, value, self._wall() + seconds)

    def on(self, topic: str, heard: Callable[[Any], object]) -> None:
        """Have a function called with each value that is told."""
        self._listeners.setdefault(topic, []).append(heard)

    # Events

    def _tell(self, topic: str, key: str, value: Any, expires: float) -> None:
        now = self._last = max(self._wall(), self._last + 1e-6)  # of two in one moment the second is the later one
        self.store.tell(Event(topic=topic, key=key, value=value, at=now, by=self.store.worker, expires=expires))

    def _tell_cooldown(self, name: str, model: str | None, known: KnownCooldown | None) -> None:
        now = self._wall()
        key = name if model is None else f"{name}\0{model}"
        if known is None:
            self._tell(_COOLDOWN, key, None, now + TOMBSTONE)
            return
        until = None if known.left is None else now + known.left
        value: dict[str, Any] = {"cause": known.cause, "reason": known.reason, "until": until, "strikes": known.strikes}
        value["origin"] = self._origins.get(name, "")
        expires = now + TOMBSTONE if until is None else until + _AFTERWARDS
        self._tell(_COOLDOWN, key, value, expires)

    def _tell_owner(self, name: str) -> None:
        if self._learning:
            return
        now, account, maker = self._wall(), self._owners.owner(name), self._owners.maker(name)
        if account is None:
            self._tell(_OWNER, name, None, now + TOMBSTONE)
            return
        value = {"account": account, "maker": None if maker is None else [maker.key, maker.team]}
        self._tell(_OWNER, name, value, now + _OWNED)

    def _told(self, event: Event) -> None:
        if event.topic == _PLUGIN and event.value is not None:
            for heard in self._listeners.get(event.key, ()):
                try:
                    heard(event.value)
                except Exception:
                    log.failure("a plugin that listens to {topic} in the cluster failed", topic=event.key)
        elif event.topic == _COOLDOWN and self._ledger.apply(event) and event.by != self.store.worker:
            self._learn(event)
        elif event.topic == _OWNER and event.by != self.store.worker:
            self._learn_owner(event)

    def _learn_owner(self, event: Event) -> None:
        """Take over who owns a resource: names are given once, so that no two events contradict each other."""
        self._learning = True
        try:
            if event.value is None:
                self._owners.forget(event.key)
            else:
                maker = event.value["maker"]
                self._owners.remember(event.key, event.value["account"], None if maker is None else Maker(*maker))
        except (KeyError, TypeError):
            log.warn("an event of the cluster about the owner of a resource cannot be understood")
        finally:
            self._learning = False

    def _learn(self, event: Event) -> None:
        name, _, model = event.key.partition("\0")
        try:
            known = None if event.value is None else self._known(model, event.value)
            if known is None or event.value["origin"] == self._origins.get(name):
                self._pool.learn(name, model or None, known)
        except (KeyError, TypeError, ValueError):
            log.warn("an event of the cluster about account {name} cannot be understood", name=name)

    def _known(self, model: str, value: dict[str, Any]) -> KnownCooldown:
        left = None if value["until"] is None else float(value["until"]) - self._wall()
        return KnownCooldown(model or ALL_MODELS, value["cause"], value["reason"], left, int(value["strikes"]))

    def _changed(self, there: bool) -> None:
        if there and self._days is not None:
            self._days.tell_all()
        if there:
            log.info("the cluster's Redis answers; {workers} processes share it", workers=len(self.store.workers))
        else:
            log.warn("the cluster's Redis does not answer; this process goes on by itself")
