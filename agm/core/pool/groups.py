"""
Groups: the accounts that have a model and a method, by whether they are ready, busy or cooling down.

A group is derived from what is known of the accounts and can be dropped at any time; it is told when an account's state
changes, so that choosing costs the same however many accounts there are.  What the state is, is said from outside.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush

from agm.core.pool.candidates import AccountOrder, Candidates, Ready
from agm.core.pool.cooldown import State
from agm.core.request import Account


class Group:
    """The accounts that have a model and a method: who is ready, who is busy, and when the others will be ready."""

    __slots__ = ("_candidates", "_cooling_down", "_heap", "busy", "order", "ready", "until")

    def __init__(self, order: AccountOrder, states: Sequence[tuple[State, float]]) -> None:
        self.order = order
        #: When it has to be derived anew, in seconds of the pool's clock.
        self.until = math.inf
        self.ready = Ready(order, (state is State.READY for state, _ in states))
        self._candidates: Candidates | None = None
        self.busy = {place for place, (state, _) in enumerate(states) if state is State.BUSY}
        self._cooling_down = {place: until for place, (state, until) in enumerate(states) if state is State.RESTING}
        self._heap = [(until, place) for place, until in self._cooling_down.items()]
        heapify(self._heap)

    def put(self, place: int, state: State, until: float) -> None:
        """Say where the account at a place stands."""
        self.ready.put(place, state is State.READY)
        self._candidates = None
        if state is State.BUSY:
            self.busy.add(place)
        else:
            self.busy.discard(place)
        if state is not State.RESTING:
            self._cooling_down.pop(place, None)
        elif self._cooling_down.get(place) != until:
            self._cooling_down[place] = until
            heappush(self._heap, (until, place))
            if len(self._heap) > 2 * len(self._cooling_down) + 64:  # old entries of accounts that got well earlier
                self._heap = [(time, at) for at, time in self._cooling_down.items()]
                heapify(self._heap)

    @property
    def candidates(self) -> Candidates:
        """Those that are ready; the same object until somebody's state changes."""
        if self._candidates is None:
            self._candidates = Candidates(self.ready)
        return self._candidates

    def next_recovery(self) -> tuple[float, int] | None:
        """Return when the next cooldown is over, and whose."""
        heap = self._heap
        while heap and self._cooling_down.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else None


def eligibility_key(account: Account) -> tuple[str, tuple[str, ...]]:
    """Return the key by which accounts have the same methods and models."""
    return account.kind, account.models.patterns


def method_classes(accounts: Iterable[Account]) -> Mapping[str, str]:
    """
    One method for all that the same kinds have, so that they share their groups.

    :param accounts: those that there are; kinds without an account do not count.
    """
    return _classes(frozenset(account.methods for account in accounts))


@lru_cache(maxsize=8)
def _classes(of_kinds: Collection[frozenset[str]]) -> Mapping[str, str]:
    kinds = list(of_kinds)
    first: dict[tuple[bool, ...], str] = {}
    return {
        method: first.setdefault(tuple(method in methods for methods in kinds), method)
        for method in sorted(frozenset().union(*kinds))
    }
