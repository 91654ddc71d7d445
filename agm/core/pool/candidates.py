"""
The accounts that can serve a request, as a sequence that is never written out.

Which of the accounts are ready is kept as a sorted array of their places: the n-th one is there to be read, the next
one in turn is found by halving, and one more or less moves some kilobytes of memory, which takes less time than a line
of Python.  So ten thousand accounts are chosen from as fast as ten.  Nothing is decided here: the pool says who is
ready, and the strategies who serves.

In which order a conversation prefers accounts is a rendezvous hash (Thaler and Ravishankar, 1996) of it and their
names: every process with these accounts finds the same one, and when one is not ready only its own conversations go
elsewhere.  Many accounts are hashed in two steps, as groups and then within the group: few have to be looked at.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import TypeVar, overload

import attrs

from agm.core.request import Account

#: So many accounts are hashed one by one; more are put into groups of about half as many.
MOST_HASHED = 128
_MASK = 2**64 - 1
#: Knuth's multiplier for 64 bits; both sides are hashes already.
_MIX = 0x9E3779B97F4A7C15

T = TypeVar("T")


def _hash_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _ranked(conversation: int, hashed: list[tuple[int, T]]) -> list[tuple[int, T]]:
    """Hashes with what they are of: the one first that is the largest when mixed with that of a conversation."""
    mixed = [(((conversation ^ key) * _MIX & _MASK, key), of) for key, of in hashed]
    mixed.sort(key=itemgetter(0), reverse=True)
    return [(score[0], of) for score, of in mixed]


@attrs.frozen(eq=False)
class AccountOrder:
    """
    Accounts in the order in which they are offered: by priority, then as they were given.

    Many models have the same accounts, and share one.
    """

    accounts: tuple[Account, ...]
    #: The place of each account, by its name.
    place: dict[str, int]
    priorities: list[int]

    @classmethod
    def of(cls, accounts: Iterable[Account]) -> AccountOrder:
        """Put accounts in order."""
        ordered = tuple(sorted(accounts, key=lambda account: account.priority))
        return cls(
            ordered,
            {account.name: place for place, account in enumerate(ordered)},
            [account.priority for account in ordered],
        )

    @cached_property
    def _groups(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """Groups of accounts: of each its hash, and the hashes and places of its accounts."""
        groups = 1
        while len(self.accounts) > groups * MOST_HASHED:
            groups *= 2
        found: dict[int, list[tuple[int, int]]] = {}
        for place, account in enumerate(self.accounts):
            key = _hash_of(account.name)
            found.setdefault(key % groups, []).append((key, place))
        return [(_hash_of(f"group {number}"), members) for number, members in sorted(found.items())]

    def preferred(self, conversation: int) -> Iterator[int]:
        """
        Yield the places of the accounts, the one that a conversation prefers first.

        :param conversation: what tells it from others, 64 bits.
        """
        for _, members in _ranked(conversation, self._groups):
            for _, place in _ranked(conversation, members):
                yield place


class Ready:
    """Which accounts of an order are ready."""

    __slots__ = ("_flags", "_places", "order")

    def __init__(self, order: AccountOrder, flags: Iterable[bool]) -> None:
        self.order = order
        self._flags = bytearray(flags)
        #: In order, four bytes each: room for one more is made by moving the others, which is a copy of memory.
        self._places = array("I", (place for place, ready in enumerate(self._flags) if ready))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: int) -> bool:
        return bool(self._flags[place])

    def put(self, place: int, ready: bool) -> None:
        """Say whether the account at a place is ready."""
        if self._flags[place] == ready:
            return
        self._flags[place] = ready
        rank = bisect_left(self._places, place)
        if ready:
            self._places.insert(rank, place)
        else:
            del self._places[rank]

    def before(self, place: int) -> int:
        """Count the ready accounts at lower places."""
        return bisect_left(self._places, place)

    def at(self, rank: int) -> int:
        """Return the place of the ready account that has `rank` others before it."""
        return self._places[rank]

    def places(self, start: int = 0) -> Iterator[int]:
        """Yield the places of the ready accounts, from `start` on."""
        place = self._flags.find(1, start)
        while place >= 0:
            yield place
            place = self._flags.find(1, place + 1)


class Candidates(Sequence[Account]):
    """
    The accounts that can serve a request: by priority, then in the order of the configuration.

    A sequence like any other, read only; beyond that it answers at once what strategies ask.  It holds for the
    moment: afterwards other accounts may be ready.  A hook that wants to keep it makes a list of it.
    """

    __slots__ = ("_holes", "_length", "_ready", "_start", "_without")

    def __init__(self, ready: Ready, *, without: Collection[str] = (), start: int = 0, stop: int | None = None) -> None:
        self._ready = ready
        stop = len(ready) if stop is None else stop
        self._start = start
        self._without = frozenset(without)
        #: The ranks, among the ready ones, of those that are left out.
        self._holes = self._ranks(stop) if without else []
        self._length = stop - start - len(self._holes)

    def _ranks(self, stop: int) -> list[int]:
        ready, place = self._ready, self._ready.order.place
        places = [place[name] for name in self._without if name in place]
        ranks = sorted(ready.before(p) for p in places if p in ready)
        return [rank for rank in ranks if self._start <= rank < stop]

    @classmethod
    def of(cls, accounts: Iterable[Account]) -> Candidates:
        """These accounts, all of them ready."""
        order = AccountOrder.of(accounts)
        return cls(Ready(order, (True for _ in order.accounts)))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Account: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Account]: ...

    def __getitem__(self, index: int | slice) -> Account | Sequence[Account]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError("there are not so many candidates")
        rank = self._start + index
        for hole in self._holes:
            if hole > rank:
                break
            rank += 1
        return self._ready.order.accounts[self._ready.at(rank)]

    def __iter__(self) -> Iterator[Account]:
        if not self._length:
            return
        accounts, left = self._ready.order.accounts, self._length
        for place in self._ready.places(self._ready.at(self._start)):
            account = accounts[place]
            if account.name not in self._without:
                yield account
                left -= 1
                if not left:
                    return

    def __contains__(self, account: object) -> bool:
        return isinstance(account, Account) and self.named(account.name) is account

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(a is b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list: what it holds changes

    def __repr__(self) -> str:
        return f"<Candidates {[account.name for account in self[:10]]}{'…' if self._length > 10 else ''}>"

    def named(self, name: str | None) -> Account | None:
        """Return the candidate of this name, if there is one."""
        place = None if name is None else self._ready.order.place.get(name)
        if place is None or place not in self._ready or name in self._without:
            return None
        rank = self._ready.before(place)
        if not self._start <= rank < self._start + self._length + len(self._holes):
            return None
        return self._ready.order.accounts[place]

    def preferred(self, conversation: int) -> Iterator[Account]:
        """Yield the candidates, the one that a conversation prefers first; see :meth:`AccountOrder.preferred`."""
        accounts = self._ready.order.accounts
        for place in self._ready.order.preferred(conversation):
            if place in self._ready and self.named(accounts[place].name) is not None:
                yield accounts[place]

    def index(self, account: object, start: int = 0, stop: int | None = None) -> int:
        """Return the index of a candidate.  :raises ValueError: if it is none."""
        if isinstance(account, Account) and self.named(account.name) is account:
            index = self._index_from(self._ready.order.place[account.name])
            if slice(start, stop).indices(self._length)[0] <= index < slice(start, stop).indices(self._length)[1]:
                return index
        raise ValueError("this account is not a candidate")

    def _index_from(self, place: int) -> int:
        """Count the candidates at lower places."""
        stop = self._start + self._length + len(self._holes)
        rank = min(max(self._ready.before(place), self._start), stop)
        return rank - self._start - bisect_left(self._holes, rank)

    def in_turn(self, after: str | None) -> Account:
        """
        Return the next candidate after the account of this name, and the first after the last.

        That account need not be a candidate any more, so that nobody is passed over because of who comes and goes.
        """
        place = None if after is None else self._ready.order.place.get(after)
        index = 0 if place is None else self._index_from(place + 1)
        return self[index if index < self._length else 0]

    def first_tier(self) -> Candidates:
        """The candidates whose priority is the lowest number among them."""
        order = self._ready.order
        end = bisect_right(order.priorities, self[0].priority)
        stop = min(self._ready.before(end), self._start + self._length + len(self._holes))
        return Candidates(self._ready, without=self._without, start=self._start, stop=stop)
