"""
Client keys that are looked up elsewhere: asked for once, remembered for a while, forgotten when they expire.

Neither a key nor what it is made of is kept: what is remembered is filed under a keyed digest.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import attrs
from twisted.internet.defer import Deferred

from agm.core.client_keys import ClientKey, digest
from agm.net.clocks import steady


@attrs.define(eq=False)
class _Known:
    key: ClientKey | None
    until: float


class CachedKeys:
    """
    A source of client keys around an asynchronous lookup.

    :param fetch: takes :func:`agm.api.digest` of a presented key, and returns the key or None, at once or after a
        while.  It is called once at a time for a key, however many requests come with it.
    :param fresh: seconds for which a known key is not asked for again; so long a revoked key goes on being accepted.
    :param unknown_fresh: the same for a key that is not known, so that a guesser does not reach the database each time.
    :param size: how many answers are remembered.
    :param now: seconds of a clock that never goes back; the default goes on while the machine sleeps.
    """

    def __init__(
        self,
        fetch: Callable[[str], ClientKey | Awaitable[ClientKey | None] | None],
        *,
        fresh: float = 60.0,
        unknown_fresh: float = 5.0,
        size: int = 10_000,
        now: Callable[[], float] = steady,
    ) -> None:
        self._fetch = fetch
        self._fresh = fresh
        self._unknown_fresh = unknown_fresh
        self._size = size
        self._now = now
        self._pepper = os.urandom(16)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, Deferred[ClientKey | None]] = {}

    def __len__(self) -> int:
        return 1  # what is elsewhere cannot be counted

    def forget(self) -> None:
        """Ask for every key anew: something was revoked."""
        self._known.clear()

    def named(self, name: str) -> ClientKey | None:
        """Find a key by its name among those that are remembered, for ``agm explain --key``."""
        now = self._now()
        return next(
            (known.key for known in self._known.values() if known.key and known.key.name == name and known.until > now),
            None,
        )

    async def lookup(self, presented: str) -> ClientKey | None:
        """Return the key, from memory or from elsewhere.  Whatever the fetch raises is raised, and not remembered."""
        wanted = digest(presented)
        index = hashlib.blake2b(wanted.encode("ascii"), key=self._pepper, digest_size=16).digest()
        known = self._known.get(index)
        if known is not None and known.until > self._now():
            self._known.move_to_end(index)
            return known.key
        asking = self._asking.get(index)
        if asking is None:
            asking = self._asking[index] = Deferred.fromCoroutine(self._ask(wanted, index))
            asking.addBoth(self._asked, index)
        # a Deferred of one's own, so that one who leaves takes nothing from the others
        mine: Deferred[ClientKey | None] = Deferred()

        def told(result: ClientKey | None) -> ClientKey | None:
            if not mine.called:
                mine.callback(result)
            return result

        def failed(failure: object) -> object:
            if not mine.called:
                mine.errback(failure)  # type: ignore[arg-type]  # a Failure, by Twisted's word
            return None

        asking.addCallbacks(told, failed)
        return await mine

    def _asked(self, result: object, index: bytes) -> object:
        del self._asking[index]
        return result

    async def _ask(self, wanted: str, index: bytes) -> ClientKey | None:
        found = self._fetch(wanted)
        key = await found if isinstance(found, Awaitable) else found
        fresh = self._fresh if key is not None else self._unknown_fresh
        self._known[index] = _Known(key, self._now() + fresh)
        self._known.move_to_end(index)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return key
