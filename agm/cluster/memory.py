"""The store within one process: what others would know is known here.  Tests compare Redis with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed

from agm.cluster.events import Event, Ledger
from agm.cluster.store import Bought

__all__ = ["MemoryStore", "Shared"]

T = TypeVar("T")


@attrs.define(eq=False)
class Shared:
    """
    What the stores of one process share.

    :param wall: seconds since the epoch.
    """

    wall: Callable[[], float]
    #: Of each limit, the time at which its bucket is full again, in seconds.
    full_at: dict[str, float] = attrs.field(factory=dict)
    claims: dict[str, tuple[str, float]] = attrs.field(factory=dict)
    counts: dict[str, tuple[float, dict[str, int]]] = attrs.field(factory=dict)
    values: dict[str, tuple[float, str]] = attrs.field(factory=dict)
    stores: list[MemoryStore] = attrs.field(factory=list)


@attrs.define(eq=False)
class MemoryStore:
    """See :class:`~agm.cluster.store.Store`; it always answers, and at once."""

    worker: str
    _shared: Shared
    told: Callable[[Event], None] = lambda event: None
    changed: Callable[[bool], None] = lambda there: None
    ledger: Ledger = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = Ledger(self._shared.wall)

    def start(self) -> None:
        """See :class:`~agm.cluster.store.Store`."""
        others = list(self._shared.stores)
        self._shared.stores.append(self)
        for event in [event for other in others[:1] for event in other.ledger]:
            self.hear(event)

    def stop(self) -> Deferred[None]:
        """See :class:`~agm.cluster.store.Store`."""
        if self in self._shared.stores:
            self._shared.stores.remove(self)
        return succeed(None)

    @property
    def there(self) -> bool:
        """See :class:`~agm.cluster.store.Store`."""
        return True

    @property
    def workers(self) -> Sequence[str]:
        """See :class:`~agm.cluster.store.Store`."""
        return sorted({store.worker for store in self._shared.stores} | {self.worker})

    def buy(self, name: str, limit: int, most: int) -> Deferred[Bought]:
        """See :class:`~agm.cluster.store.Store`."""
        now, each = self._shared.wall(), 60.0 / limit
        full_at = max(self._shared.full_at.get(name, 0.0), now)
        left = int((now + 60.0 - full_at) / each + 1e-6)
        granted = min(left, most)
        self._shared.full_at[name] = full_at + granted * each
        wait = 0.0 if granted else full_at + each - now - 60.0
        return succeed(Bought(granted, left - granted, wait))

    def claim(self, what: str, seconds: float) -> Deferred[bool]:
        """See :class:`~agm.cluster.store.Store`."""
        now = self._shared.wall()
        holder, until = self._shared.claims.get(what, ("", 0.0))
        if until > now and holder != self.worker:
            return succeed(False)
        self._shared.claims[what] = self.worker, now + seconds
        return succeed(True)

    def unclaim(self, what: str) -> Deferred[None]:
        """See :class:`~agm.cluster.store.Store`."""
        if self._shared.claims.get(what, ("",))[0] == self.worker:
            del self._shared.claims[what]
        return succeed(None)

    def count(self, name: str, own: int, seconds: int) -> Deferred[int]:
        """See :class:`~agm.cluster.store.Store`."""
        now = self._shared.wall()
        until, counts = self._shared.counts.get(name, (0.0, {}))
        counts = counts if until > now else {}
        counts[self.worker] = max(own, counts.get(self.worker, 0))
        self._shared.counts[name] = now + seconds, counts
        return succeed(sum(counts.values()))

    def put(self, name: str, value: str, seconds: int) -> Deferred[None]:
        """See :class:`~agm.cluster.store.Store`."""
        self._shared.values[name] = self._shared.wall() + seconds, value
        return succeed(None)

    def get(self, name: str) -> Deferred[str | None]:
        """See :class:`~agm.cluster.store.Store`."""
        until, value = self._shared.values.get(name, (0.0, ""))
        return succeed(value if until > self._shared.wall() else None)

    def tell(self, event: Event) -> None:
        """See :class:`~agm.cluster.store.Store`."""
        for store in [*self._shared.stores]:
            store.hear(event)

    def hear(self, event: Event) -> None:
        """Take note of an event."""
        if self.ledger.apply(event):
            self.told(event)
