"""
Requests a minute of client keys, where several processes share them: paid for in advance, and spent here.

A process buys from the store what it is about to spend, for at most 100 ms in advance and never more than its part of
what is left.  What it does not spend within a second is lost, so that nobody saves up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import attrs

from agm.cluster.store import Store, StoreAway
from agm.config.cluster import OnLoss
from agm.core.errors import Unavailable
from agm.core.limits import PerMinute

__all__ = ["Prepaid", "SharedLimits", "part_of"]

#: Seconds after which what was bought is lost.
LAPSE = 1.0
#: For so many seconds' worth is bought in advance.
ADVANCE = 0.1


@attrs.define(eq=False)
class Prepaid(PerMinute):
    """A minute of which a part was bought: it stands where :class:`~agm.core.limits.PerMinute` stands alone."""

    limit: int
    #: When each of those that are paid for lapses, the earliest first.
    credits: list[float] = attrs.field(factory=list)
    #: Until when the store has none.
    refused_until: float = 0.0
    #: How many the store had left when it was last asked.
    left: int | None = None
    #: What stands in for the store while it is away.
    local: PerMinute | None = None

    def paid(self, now: float) -> int:
        """Count those that are paid for."""
        self.credits = [lapses for lapses in self.credits if lapses > now]
        return len(self.credits)

    def take(self, now: float) -> float:
        """See :class:`~agm.core.limits.PerMinute`."""
        if not self.paid(now):
            return self.wait(now) or 60 / self.limit
        del self.credits[0]
        return 0.0

    def wait(self, now: float) -> float:
        """See :class:`~agm.core.limits.PerMinute`; 0 also where nobody has asked the store yet."""
        return 0.0 if self.paid(now) else max(0.0, self.refused_until - now)


def part_of(limit: int, name: str, worker: str, workers: list[str]) -> int:
    """
    Return the part of a limit that is a worker's: whole ones, which add up to the limit over all workers.

    What cannot be split evenly goes to those that come first for this name, which is the same everywhere.
    """

    def place(of: str) -> bytes:
        return hashlib.blake2b(f"{name}\0{of}".encode(), digest_size=8).digest()

    order = sorted({*workers, worker}, key=place)
    whole, rest = divmod(limit, len(order))
    return whole + (order.index(worker) < rest)


@attrs.define(eq=False)
class SharedLimits:
    """
    Buys what requests cost.

    :param now: seconds of a clock that never goes back.
    """

    _store: Store
    _on_loss: OnLoss
    _now: Callable[[], float]

    def part(self, limit: int, name: str) -> int:
        """Return this process's part of what may go on at once; all parts together are the limit."""
        return part_of(limit, name, self._store.worker, list(self._store.workers))

    async def pay(self, name: str, minute: Prepaid) -> None:
        """
        See to it that a request of a key is paid for, if it can be: one that was bought, or one of this process's part.

        :raises Unavailable: if the store is away and ``[cluster] on_loss`` is ``refuse``.
        """
        if minute.paid(self._now()):
            return
        limit = minute.limit
        others = 2 * len(self._store.workers)
        most = max(1, min((limit if minute.left is None else minute.left) // others, int(limit / 60 * ADVANCE)))
        try:
            bought = await self._store.buy(f"requests:{name}", limit, most)
        except StoreAway:
            self._without(name, minute)
            return
        now = self._now()
        minute.local, minute.left = None, bought.left
        minute.credits += [now + LAPSE] * bought.granted
        if not bought.granted:
            minute.refused_until = now + bought.wait

    def _without(self, name: str, minute: Prepaid) -> None:
        """Go on without the store, from the level that was last known."""
        now = self._now()
        if self._on_loss == "refuse":
            raise Unavailable(
                "The limits of this client key cannot be checked now: the cluster's Redis does not answer.",
                reason="CLUSTER_AWAY",
                retry_after=1.0,
            )
        if self._on_loss == "share":
            store = self._store
            workers = list(store.workers)
            if minute.local is None:
                part = part_of(minute.limit, name, store.worker, workers)
                if part:
                    minute.local = PerMinute(part)
                    level = minute.limit if minute.left is None else minute.left
                    minute.local.spend(now, part - part_of(level, name, store.worker, workers))
            wait = 60.0 / minute.limit if minute.local is None else minute.local.take(now)
            if wait:
                minute.refused_until = now + wait
                return
        minute.credits.append(now + LAPSE)
