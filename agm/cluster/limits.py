"""
The limits of client keys over several processes: requests a minute, requests and tokens a day.

**A minute** is bought: a process buys a few requests from the store, spends them here, and buys more when it has none.
The store keeps one moment for each key, by which all that was bought would have come back (the generic cell rate
algorithm), measured by its own clock: no limit is ever exceeded, and a refusal costs nothing.  What is not spent within
a second goes back.  **A day** is counted: each process has its own count in the store, whole, so that a repeat or a lost
reply counts nothing twice, and knows the sum of the others'; near its end each request is counted there first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agm.cluster.link import Away, Link, Script
from agm.cluster.members import Members
from agm.core.limits import DAY, Allowances, Exceeded, Limits, PerMinute

#: Seconds between a change of a day's count and its telling, and after which credit that is not spent goes back.
TELL_AFTER: Final = 0.05
GO_BACK_AFTER: Final = 1.0
#: From this part of a day's limit on, each request is counted in the store before it is let in.
NEAR: Final = 0.95

#: Buys up to ARGV[2] of a limit of ARGV[1] a minute; returns how many, and the microseconds until there is one again.
_BUY = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local gap = 60000000 / tonumber(ARGV[1])
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local room = math.floor((now + 60000000 - due + 0.5) / gap)
local bought = math.max(0, math.min(tonumber(ARGV[2]), room))
if bought > 0 then
    due = due + bought * gap
    redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000) + 1000)
end
return {bought, room - bought, string.format('%.0f', math.max(0, due + gap - now - 60000000))}
"""
)
_RETURN = Script(
    """
local due = tonumber(redis.call('GET', KEYS[1]) or '0')
if due > 0 then
    redis.call('SET', KEYS[1], string.format('%.0f', due - tonumber(ARGV[2]) * 60000000 / tonumber(ARGV[1])), 'KEEPTTL')
end
return 0
"""
)
#: Writes down a process's own count of a day, and returns the sums of all.  With ARGV[4] above 0 it takes one request
#: more, unless the sum has come to that limit: then the first value is -1.
_COUNT = Script(
    """
local requests, tokens, own = 0, 0, tonumber(ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] then
        local comma = string.find(all[i + 1], ',', 1, true)
        requests = requests + tonumber(string.sub(all[i + 1], 1, comma - 1))
        tokens = tokens + tonumber(string.sub(all[i + 1], comma + 1))
    end
end
if tonumber(ARGV[4]) > 0 then
    if requests + own >= tonumber(ARGV[4]) then
        return {-1, requests, tokens}
    end
    own = own + 1
end
redis.call('HSET', KEYS[1], ARGV[1], own .. ',' .. ARGV[3])
redis.call('EXPIRE', KEYS[1], 259200)
return {own, requests, tokens}
"""
)

log = Logger()


@attrs.define(eq=False)
class _Credit:
    """Requests that were bought and are not spent."""

    limit: int
    left: int = 0
    #: What was left in the store when it was bought last.
    room: int = 0
    going_back: Any = None


class SharedLimits:
    """
    The limits, as one process holds its requests to them.

    :param away: is called when the store has not answered.
    :ivar on_loss: ``share``, ``refuse`` or ``allow``: what holds while the store is away.
    """

    def __init__(
        self,
        reactor: Any,
        link: Link,
        members: Members,
        prefix: str,
        allowances: Allowances,
        wall: Callable[[], float],
        away: Callable[[Away], object],
    ) -> None:
        self._reactor = reactor
        self._link = link
        self._members = members
        self._prefix = prefix
        self._allowances = allowances
        self._wall = wall
        self._away = away
        self.on_loss = "share"
        self._credits: dict[str, _Credit] = {}
        self._shares: dict[str, PerMinute] = {}
        self._changed: dict[str, None] = {}
        self._timer: Any = None
        allowances.counted = self._note

    # Requests a minute

    async def admit(self, name: str, limits: Limits, *, here: bool) -> Exceeded | None:
        """
        Take what a request needs of the limits that all processes share; returns the one that is used up.

        :param here: whether the store is there.
        """
        exceeded: Exceeded | None = None
        if limits.requests_per_minute is not None:
            exceeded = await self._take(name, limits.requests_per_minute, here=here)
        if exceeded is None and here and limits.requests_per_day is not None:
            exceeded = await self._take_of_day(name, limits.requests_per_day)
        return exceeded

    async def _take(self, name: str, limit: int, *, here: bool) -> Exceeded | None:
        credit = self._credits.get(name)
        if credit is None or credit.limit != limit:
            credit = self._credits[name] = _Credit(limit)
        if credit.left > 0:
            credit.left -= 1
            return None
        if here:
            try:
                wanted = max(1, min(credit.room // (2 * self._members.count), limit // 600))
                bought, credit.room, wait = await self._buy(name, credit, wanted)
            except Away as e:
                self._away(e)
            else:
                if not bought:
                    return Exceeded("requests_per_minute", limit, max(int(wait) / 1e6, 0.001))
                credit.left += bought - 1
                self._go_back_later(name, credit)
                return None
        return self._take_alone(name, limit)

    async def _buy(self, name: str, credit: _Credit, wanted: int) -> Any:
        def late(reply: Any) -> None:
            credit.left += int(reply[0])
            self._go_back_later(name, credit)

        return await self._link.run(_BUY, (self._minute(name),), credit.limit, wanted, late=late)

    def _take_alone(self, name: str, limit: int) -> Exceeded | None:
        """Without the store: go on with this process's share of the limit."""
        if self.on_loss == "allow":
            return None
        share = 0 if self.on_loss == "refuse" else self._members.share(limit, name)
        if not share:
            return Exceeded("requests_per_minute", limit, 1.0)
        bucket = self._shares.get(name)
        if bucket is None or bucket.limit != share:
            bucket = self._shares[name] = PerMinute(share)
        wait = bucket.take(self._reactor.seconds())
        return Exceeded("requests_per_minute", limit, wait) if wait else None

    def _go_back_later(self, name: str, credit: _Credit) -> None:
        if credit.left and credit.going_back is None:
            credit.going_back = self._reactor.callLater(GO_BACK_AFTER, self._go_back, name, credit)

    def _go_back(self, name: str, credit: _Credit) -> None:
        left, credit.left, credit.going_back = credit.left, 0, None
        if left and self._link.connected:
            rest = (1, self._minute(name), credit.limit, left)
            self._link.ask("EVAL", _RETURN.text, *rest).addErrback(lambda _: None)

    def _minute(self, name: str) -> str:
        return f"{self._prefix}minute:{name}"

    # Days

    async def _take_of_day(self, name: str, limit: int) -> Exceeded | None:
        day, (own, _) = int(self._wall() // DAY), self._allowances.own_today(name)
        if own + self._allowances.elsewhere(name)[0] < limit * NEAR:
            return None
        try:
            taken, requests, tokens = await self._count(name, day, limit)
        except Away as e:
            self._away(e)
            return None
        self._allowances.others(name, day, int(requests), int(tokens))
        if int(taken) >= 0:
            return None
        return Exceeded("requests_per_day", limit, max((day + 1) * DAY - self._wall(), 0.001))

    async def _count(self, name: str, day: int, limit: int = 0) -> Any:
        requests, tokens = self._allowances.own_today(name)
        key = f"{self._prefix}day:{day}:{name}"
        return await self._link.run(_COUNT, (key,), self._members.name, requests, tokens, limit)

    def _note(self, name: str) -> None:
        """A day's count has changed."""
        self._changed[name] = None
        if self._timer is None:
            self._timer = self._reactor.callLater(TELL_AFTER, self._tell)

    def _tell(self) -> None:
        self._timer = None
        names, self._changed = list(self._changed), {}
        for name in names:
            Deferred.fromCoroutine(self._tell_one(name))

    async def _tell_one(self, name: str) -> None:
        day = int(self._wall() // DAY)
        try:
            _, requests, tokens = await self._count(name, day)
        except Away as e:
            self._away(e)
            self._changed[name] = None  # told with the next, or when the store is back
            return
        self._allowances.others(name, day, int(requests), int(tokens))

    def came_back(self) -> None:
        """The store is there again: tell what it has missed, and buy anew."""
        self._shares.clear()
        for name in self._allowances.used_today():
            self._note(name)

    def stop(self) -> None:
        """End the timers."""
        self._allowances.counted = lambda name: None
        for credit in self._credits.values():
            if credit.going_back is not None and credit.going_back.active():
                credit.going_back.cancel()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
