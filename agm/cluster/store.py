"""
The store that processes share their state by: what it can do, whoever stands behind it.

Processes keep copies and decide from them; the store brings the copies into agreement.  Every call either is answered
within :data:`DEADLINE` or fails with :class:`StoreAway`; what a late answer brought is not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from agm.cluster.events import Event

__all__ = ["DEADLINE", "Bought", "Store", "StoreAway"]

#: Seconds that a call may take.
DEADLINE = 0.05
#: Seconds between two beats of a process; one that was silent for :data:`SILENT` has ended.
BEAT = 0.5
SILENT = 5.0


class StoreAway(Exception):
    """The store does not answer."""


@attrs.frozen
class Bought:
    """
    What a purchase of a rate limit brought.

    :ivar granted: how many requests are paid for, 0 where none was left.
    :ivar left: how many are left for everybody, in whole requests.
    :ivar wait: seconds until one is left; 0 where one was granted.
    """

    granted: int
    left: int
    wait: float


class Store(Protocol):
    """
    A store.

    :ivar worker: this process, by a name that no other has or had.
    :ivar told: called with each event that another process (or this one) has told, once it is known to be news.
    :ivar changed: called with whether the store answers, each time that changes.
    """

    worker: str
    told: Callable[[Event], None]
    changed: Callable[[bool], None]

    def start(self) -> None:
        """Begin."""

    def stop(self) -> Deferred[None]:
        """End."""

    @property
    def there(self) -> bool:
        """Whether it answered last time."""

    @property
    def workers(self) -> Sequence[str]:
        """The processes that were seen within the last seconds, sorted; this one among them."""

    def buy(self, name: str, limit: int, most: int) -> Deferred[Bought]:
        """
        Buy up to `most` requests of a limit of `limit` a minute: a burst of a whole minute, then evenly.

        :raises StoreAway: by the Deferred, as all the others.  What it may have bought all the same is lost to all.
        """

    def claim(self, what: str, seconds: float) -> Deferred[bool]:
        """Claim something for so long; False where another process has it.  The holder claims it anew."""

    def unclaim(self, what: str) -> Deferred[None]:
        """Give a claim back, if it is still this process's."""

    def count(self, name: str, own: int, seconds: int) -> Deferred[int]:
        """
        Put down how many this process has counted in all, and return the sum over all processes.

        The number never falls, so that a repeat counts nothing twice.

        :param seconds: how long the counter lives after the last call.
        """

    def put(self, name: str, value: str, seconds: int) -> Deferred[None]:
        """Keep a value for so long."""

    def get(self, name: str) -> Deferred[str | None]:
        """Return a value that was put; None if there is none."""

    def tell(self, event: Event) -> None:
        """Tell an event to all processes; while the store is away it is kept, and told afterwards."""
