"""
A breaker per endpoint: one that fails is left alone for a while, then one request tries it.

What counts, and against whom:

- **It cannot be reached** (no address, no connection, no TLS): nobody's request has got there, so it counts against the
  endpoint.  :data:`THRESHOLD` such failures without an answer in between open its breaker, for every model.
- **It answers, but not as Google does** (a page of a proxy, a connection that drops, silence): this may be the endpoint
  or something that one client sends.  As many of them put the endpoint in doubt; its breaker opens only if the
  gateway's own question to it fails as well (:meth:`Endpoints.confirm_failure`).
- **Google's own 5xx**: the endpoint is well and says that a model is not.  It counts for this model only; another
  endpoint is then tried first where the account has one, and no account cools down for it.

Any answer in Google's words takes back what was held against the endpoint, a good one also what was held against the
model.  So a model that always fails never takes an endpoint away from those that work there, and neither do the names
that a client invents.  Counts halve every :data:`HALF_LIFE` seconds.

Time is handed in, in seconds; nothing here waits or connects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

import attrs

#: Failures, with older ones counting less, that open a breaker.
THRESHOLD = 4.5
HALF_LIFE = 30.0
#: Seconds for which an open breaker stays open; twice as many after each failed probe, up to the second number.
OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 60.0
#: Pairs of endpoint and model of which failures are remembered: model names are the clients' to invent.
MAX_PAIRS = 1000


class Trouble(Enum):
    """How an endpoint failed."""

    UNREACHED = "it cannot be reached"
    ODD = "its answers are not Google's"
    STATED = "it says that the model fails"


class Consequence(Enum):
    """What follows from a failure of an endpoint."""

    NONE = "nothing yet"
    OPENED = "its breaker is open"
    CLOSED = "its breaker is closed"
    DOUBT = "it is to be asked a question of the gateway's own"


@lru_cache(maxsize=1024)
def origin(url: str) -> str:
    """Scheme, host and port of a base URL: what fails as one."""
    return "/".join(url.split("/", 3)[:3])


@attrs.define(eq=False)
class _Count:
    """A number of failures of which half is forgotten every :data:`HALF_LIFE` seconds."""

    value: float = 0.0
    at: float = 0.0

    def left(self, now: float) -> float:
        return self.value * 0.5 ** ((now - self.at) / HALF_LIFE)

    def add(self, now: float) -> float:
        self.value, self.at = self.left(now) + 1.0, now
        return self.value


@attrs.define(eq=False)
class Breaker:
    """
    What is held against one endpoint: closed, open until a time, or half open while one request tries it.

    `until` is None while it is closed; `probed_by` is who tries it.
    """

    until: float | None = None
    probed_by: object = None
    _unreached: _Count = attrs.Factory(_Count)
    _odd: _Count = attrs.Factory(_Count)
    _trips: int = 0

    def failed(self, trouble: Trouble, now: float, *, probe: bool) -> Consequence:
        """Count a failure."""
        if trouble is Trouble.UNREACHED:
            if probe or (self._unreached.add(now) >= THRESHOLD and self.until is None):
                self.open(now)
                return Consequence.OPENED
            return Consequence.NONE
        if probe:
            self.probed_by = None
        return Consequence.DOUBT if self._odd.add(now) >= THRESHOLD or probe else Consequence.NONE

    def open(self, now: float) -> None:
        """Leave the endpoint alone, for longer each time that it was no use to try it."""
        self.until = now + min(OPEN_SECONDS * 2**self._trips, MAX_OPEN_SECONDS)
        self.probed_by = None
        self._trips = min(self._trips + 1, 10)


class Endpoints:
    """The breakers of all endpoints."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._pairs: OrderedDict[tuple[str, str], _Count] = OrderedDict()

    @property
    def unsuspected(self) -> bool:
        """Whether nothing at all is held against any endpoint, nor against a model there."""
        return not self._breakers and not self._pairs

    @property
    def all_closed(self) -> bool:
        """Whether nothing is held against any endpoint as a whole."""
        return not self._breakers

    def open_until(self, url: str, now: float) -> float | None:
        """Return when an endpoint may be tried; 0 while it is being probed, None if it may be tried now."""
        breaker = self._breakers.get(origin(url))
        if breaker is None or breaker.until is None:
            return None
        if breaker.probed_by is not None:
            return 0.0
        return breaker.until if breaker.until > now else None

    def standing(self, url: str, now: float) -> tuple[str, float | None]:
        """Return an endpoint's breaker state: ``closed``, ``open`` with seconds left, ``probing`` or ``probe due``."""
        breaker = self._breakers.get(origin(url))
        if breaker is None or breaker.until is None:
            return "closed", None
        if breaker.probed_by is not None:
            return "probing", None
        return ("open", breaker.until - now) if breaker.until > now else ("probe due", 0.0)

    def all_open_until(self, urls: Sequence[str], now: float) -> float | None:
        """Return when the first of several endpoints may be tried, likewise."""
        earliest: float | None = None
        for url in urls:
            until = self.open_until(url, now)
            if until is None:
                return None
            earliest = until if earliest is None else min(earliest, until)
        return earliest

    def pick(self, urls: Sequence[str], model: str, now: float, tried: set[int]) -> int | None:
        """
        Return the number of the endpoint to ask next: the first that is not open, and fails the model least of late.

        :param tried: numbers of endpoints that have been asked already.
        """
        if self.unsuspected:
            return next((i for i in range(len(urls)) if i not in tried), None)
        usable = [i for i, url in enumerate(urls) if i not in tried and self.open_until(url, now) is None]
        well = (i for i in usable if not self._failing(urls[i], model, now))
        return next(well, usable[0] if usable else None)

    def _failing(self, url: str, model: str, now: float) -> bool:
        count = self._pairs.get((origin(url), model))
        return count is not None and count.left(now) >= THRESHOLD

    def claim(self, url: str, prober: object) -> bool:
        """Ask an endpoint; returns whether this is the one request that tries it."""
        breaker = self._breakers.get(origin(url))
        if breaker is None or breaker.until is None or breaker.probed_by is not None:
            return False
        breaker.probed_by = prober
        return True

    def unclaim(self, url: str, prober: object) -> bool:
        """Whoever tried it learnt nothing; returns whether it was the one, so that the next may try."""
        breaker = self._breakers.get(origin(url))
        if breaker is None or breaker.probed_by is not prober:
            return False
        breaker.probed_by = None
        return True

    def answered(self, url: str, model: str, *, good: bool) -> bool:
        """An answer in Google's words came, a `good` one or an error; returns whether that has closed a breaker."""
        if self.unsuspected:
            return False
        at = origin(url)
        if good and self._pairs:
            self._pairs.pop((at, model), None)
        breaker = self._breakers.pop(at, None)
        return breaker is not None and breaker.until is not None

    def failed(self, url: str, model: str, trouble: Trouble, now: float, prober: object = None) -> Consequence:
        """Count a failure."""
        at = origin(url)
        if trouble is not Trouble.UNREACHED:
            pair = (at, model)
            self._pairs.setdefault(pair, _Count()).add(now)
            self._pairs.move_to_end(pair)
            if len(self._pairs) > MAX_PAIRS:
                self._pairs.popitem(last=False)
        if trouble is Trouble.STATED:
            return Consequence.CLOSED if self.answered(url, model, good=False) else Consequence.NONE
        breaker = self._breakers.setdefault(at, Breaker())
        probe = prober is not None and breaker.probed_by is prober
        return breaker.failed(trouble, now, probe=probe)

    def confirm_failure(self, url: str, now: float) -> None:
        """Open the breaker of an endpoint that did not answer the gateway's own question either."""
        self._breakers.setdefault(origin(url), Breaker()).open(now)

    def forget(self, urls: Sequence[str]) -> bool:
        """Take back what is held against endpoints; returns whether there was anything."""
        gone = [self._breakers.pop(origin(url), None) for url in urls]
        return any(breaker is not None for breaker in gone)

    def keep(self, urls: Sequence[str]) -> None:
        """Forget all other endpoints."""
        known = {origin(url) for url in urls}
        self._breakers = {at: breaker for at, breaker in self._breakers.items() if at in known}
