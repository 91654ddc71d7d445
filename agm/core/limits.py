"""
The limits of client keys: requests and tokens, per minute and per day.  Time is handed in, and nothing is kept on disk.

A minute is a bucket: a burst may use it up at once, and then it comes back evenly.  A day is a day of UTC, counted from
midnight to midnight, so that it has the same length everywhere and a restart in another time zone changes nothing.

A request is known when it comes, and is counted then.  Its tokens are known when its answer has ended, and are charged
then: a request is let in as long as anything is left, and the last one may use more than that.  What a minute was
overdrawn by is waited off, so that the limit holds on average; what a day was overdrawn by is forgotten at midnight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import attrs

from agm.core.errors import TooManyRequests

#: Whoever waits as long as told must be served, although a float of seconds since the epoch is only so fine.
_ROUNDING = 1e-4
DAY = 86_400
#: Keys whose use is kept; of keys that are looked up elsewhere there may be any number.
MAX_KEYS = 100_000

Name = Literal["requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day"]
NAMES: tuple[Name, ...] = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "tokens_per_day")


@attrs.frozen
class Limits:
    """What a client key may use; None is no limit."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None


class PerMinute:
    """
    A bucket that holds a minute's worth: a burst may use it up at once, then it comes back evenly.

    :param limit: per minute, 1 or more.
    """

    __slots__ = ("_at", "_left", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._left = float(limit)
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take one: 0 if there was one left, else the seconds until there is."""
        wait = self.wait(now)
        if not wait:
            self.spend(now, 1)
            self._left = max(0.0, self._left)
        return wait

    def spend(self, now: float, amount: int) -> None:
        """Take so many, whether they are left or not; what is overdrawn has to come back first."""
        self._left = self._level(now) - amount
        self._at = now  # a clock that is set back gives nothing and takes nothing

    def wait(self, now: float) -> float:
        """Return what :meth:`take` would return now, without taking anything."""
        left = self._level(now)
        return 0.0 if left >= 1 - _ROUNDING else (1 - left) * 60 / self.limit

    def _level(self, now: float) -> float:
        if self._at is None:
            return self._left
        return min(self.limit, self._left + max(0.0, now - self._at) * self.limit / 60)


@attrs.frozen
class Exceeded:
    """A limit that is used up: which, how large it is, and the seconds until something is left again."""

    name: Name
    limit: int
    wait: float

    def error(self) -> TooManyRequests:
        """Make the client's error, in Google's form."""
        thing, _, span = self.name.partition("_per_")
        may = f"may {'make' if thing == 'requests' else 'use'} {self.limit} {thing} per {span}"
        anew = " A day begins at midnight UTC." if span == "day" else ""
        wait = math.ceil(round(self.wait * 1000, 6)) / 1000  # not a moment less than is needed
        return TooManyRequests(
            f"This client key {may}.{anew} Please retry in {wait:.3f}s.",
            reason="CLIENT_KEY_LIMIT",
            retry_after=wait,
            details=[
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [
                        {
                            "quotaMetric": f"agm/client_key_{thing}",
                            # clients tell by the words PerDay and PerMinute whether waiting is worth it
                            "quotaId": f"{thing.title()}Per{span.title()}PerClientKey",
                            "quotaValue": str(self.limit),
                        }
                    ],
                }
            ],
        )


@attrs.define(eq=False)
class _Use:
    """What one key has used: of its minute, and on `day` (days since the epoch)."""

    day: int
    requests: int = 0
    tokens: int = 0
    request_minute: PerMinute | None = None
    token_minute: PerMinute | None = None
    #: The day that was counted before, its requests and tokens: a clock that was wrong for a while comes back to it.
    before: tuple[int, int, int] = (-1, 0, 0)
    #: A day, and what other processes have counted on it.
    others: tuple[int, int, int] = (-1, 0, 0)

    def on(self, day: int) -> _Use:
        """This, with the counts of `day`."""
        if self.day != day:
            requests, tokens = self.of(day)
            if self.requests or self.tokens:
                self.before = (self.day, self.requests, self.tokens)
            self.day, self.requests, self.tokens = day, requests, tokens
        return self

    def elsewhere(self, day: int) -> tuple[int, int]:
        """Return the requests and tokens of `day` that other processes have counted."""
        known, requests, tokens = self.others
        return (requests, tokens) if known == day else (0, 0)

    def of(self, day: int) -> tuple[int, int]:
        """Return the requests and tokens of `day`, as far as they are known."""
        for known, requests, tokens in ((self.day, self.requests, self.tokens), self.before):
            if known == day:
                return requests, tokens
        return 0, 0


class Allowances:
    """
    What all client keys have used, by their names.

    :param now: seconds of a clock that never goes back.
    :param wall: seconds since the epoch.
    :ivar changed: called whenever a day's count changes.
    :ivar counted: likewise, with the name of the key.
    """

    def __init__(self, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._now = now
        self._wall = wall
        self._uses: dict[str, _Use] = {}
        self.changed: Callable[[], None] = lambda: None
        self.counted: Callable[[str], None] = lambda name: None

    def admit(self, name: str, limits: Limits, *, spends: bool, counting: bool = True) -> Exceeded | None:
        """
        Count a request of a key, unless one of its limits is used up: then the one that takes longest.

        :param spends: whether the request uses tokens; others are let in while none are left.
        :param counting: whether to count it if it may be made.
        """
        now, wall = self._now(), self._wall()
        use = self._use(name, int(wall // DAY))
        minute = use.request_minute = _bucket(use.request_minute, limits.requests_per_minute)
        tokens = use.token_minute = _bucket(use.token_minute, limits.tokens_per_minute)
        worst: Exceeded | None = None
        for exceeded in _exceeded(use, limits, minute, tokens if spends else None, spends, now, wall):
            if worst is None or exceeded.wait > worst.wait:
                worst = exceeded
        if worst is None and counting:
            if minute is not None and (wait := minute.take(now)):  # bought in the cluster, and not paid for
                return Exceeded("requests_per_minute", minute.limit, wait)
            use.requests += 1
            self.changed()
            self.counted(name)
        return worst

    def minute(self, name: str, make: Callable[[], PerMinute], limit: int) -> PerMinute:
        """Return the bucket of a key's requests a minute; `make` makes it where it is for another limit."""
        use = self._use(name, int(self._wall() // DAY))
        if use.request_minute is None or use.request_minute.limit != limit:
            use.request_minute = make()
        return use.request_minute

    def charge(self, name: str, tokens: int) -> None:
        """Charge a key for the tokens of an answer that has ended."""
        use = self._use(name, int(self._wall() // DAY))
        use.tokens += tokens
        if use.token_minute is not None:
            use.token_minute.spend(self._now(), tokens)
        self.changed()
        self.counted(name)

    def today(self, name: str) -> tuple[int, int]:
        """Return the requests and the tokens of a key since midnight UTC, in all processes."""
        (requests, tokens), (more, further) = self.own_today(name), self.elsewhere(name)
        return requests + more, tokens + further

    # Several processes

    def own_today(self, name: str) -> tuple[int, int]:
        """Return the requests and the tokens of a key since midnight UTC, in this process."""
        use, day = self._uses.get(name), int(self._wall() // DAY)
        return (0, 0) if use is None else use.of(day)

    def elsewhere(self, name: str) -> tuple[int, int]:
        """Return the same in all other processes, as far as that is known."""
        use = self._uses.get(name)
        return (0, 0) if use is None else use.elsewhere(int(self._wall() // DAY))

    def others(self, name: str, day: int, requests: int, tokens: int) -> None:
        """
        Take note of what other processes have counted of a key on a day.

        What they have used of its tokens since the last time is taken from this process's minute, too.  Counts never
        fall: a store that was emptied knows less than was known.
        """
        use = self._use(name, int(self._wall() // DAY))
        before = use.elsewhere(day)
        requests, tokens = max(requests, before[0]), max(tokens, before[1])
        more = tokens - before[1]
        if use.token_minute is not None and more > 0 and use.others[0] == day:
            use.token_minute.spend(self._now(), more)
        use.others = (day, requests, tokens)

    def used_today(self) -> list[str]:
        """Return the names of the keys that this process has counted anything of today."""
        return list(self.dump()[1])

    def _use(self, name: str, day: int) -> _Use:
        use = self._uses.get(name)
        if use is not None:
            return use.on(day)
        if len(self._uses) >= MAX_KEYS:
            for old in [known for known, use in self._uses.items() if use.day != day] or [next(iter(self._uses))]:
                del self._uses[old]
        use = self._uses[name] = _Use(day)
        return use

    # Restarts

    def dump(self) -> tuple[int, Mapping[str, tuple[int, int]]]:
        """Today, in days since the epoch, and the requests and tokens of each key that was used today."""
        day = int(self._wall() // DAY)
        return day, {name: counts for name, use in self._uses.items() if any(counts := use.of(day))}

    def load(self, day: int, counts: Iterable[tuple[str, tuple[int, int]]]) -> None:
        """Go on with the counts of a day; those of another day count again if the clock comes to be set to that."""
        today = int(self._wall() // DAY)
        for name, (requests, tokens) in counts:
            use = self._use(name, today)
            if day == today:
                use.requests += requests
                use.tokens += tokens
            else:
                use.before = (day, requests, tokens)


def _bucket(known: PerMinute | None, limit: int | None) -> PerMinute | None:
    """Return the bucket for a limit: the one there is, unless it is for another limit."""
    if limit is None or (known is not None and known.limit == limit):
        return known if limit is not None else None
    return PerMinute(limit)


def _exceeded(
    use: _Use,
    limits: Limits,
    requests: PerMinute | None,
    tokens: PerMinute | None,
    spends: bool,
    now: float,
    wall: float,
) -> Iterator[Exceeded]:
    """Yield the limits that are used up."""
    if requests is not None and (wait := requests.wait(now)):
        yield Exceeded("requests_per_minute", requests.limit, wait)
    if tokens is not None and (wait := tokens.wait(now)):
        yield Exceeded("tokens_per_minute", tokens.limit, wait)
    # not less than a moment: midnight itself is the next day, but a client's clock is not ours
    midnight = max((use.day + 1) * DAY - wall, 0.001)
    more, further = use.elsewhere(use.day)
    if limits.requests_per_day is not None and use.requests + more >= limits.requests_per_day:
        yield Exceeded("requests_per_day", limits.requests_per_day, midnight)
    if spends and limits.tokens_per_day is not None and use.tokens + further >= limits.tokens_per_day:
        yield Exceeded("tokens_per_day", limits.tokens_per_day, midnight)
