"""
The limits of client keys over several processes: requests a minute, requests and tokens a day.

**A minute** is bought: a process buys a few requests from the store, spends them here, and buys more when it has none.
The store keeps one moment for each key, by which all that was bought would have come back (the generic cell rate
algorithm), measured by its own clock: no limit is ever exceeded, and a refusal costs nothing.  What is not spent within
a second goes back.  **A day** is counted: each process has its own count in the store, whole, so that a repeat or a lost
reply counts nothing twice, and knows the sum of the others'; near its end the store is asked for each request.

While the store is away, each process goes on with its share of what was left, and tells afterwards what it has let in.
"""

from __future__ import annotations

import math
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
#: From this part of a day's limit on, the store is asked before a request is let in.
NEAR: Final = 0.95
#: Seconds for which a refusal holds without asking again.
REFUSED_FOR: Final = 0.1

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
#: Takes ARGV[2] without asking whether they are left; below 0 they go back.
_CHARGE = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local due = tonumber(redis.call('GET', KEYS[1]) or '0')
if due > now or tonumber(ARGV[2]) > 0 then
    due = math.max(due, now) + tonumber(ARGV[2]) * 60000000 / tonumber(ARGV[1])
    redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil(math.max(due - now, 0) / 1000) + 1000)
end
return 0
"""
)
#: Writes down a process's own count of a day, and returns whether the sum of all is within ARGV[4], and the sums of the
#: others.  A count that is not within the limit is written without its last request.
_COUNT = Script(
    """
local requests, tokens, own, within = 0, 0, tonumber(ARGV[2]), 1
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] then
        local comma = string.find(all[i + 1], ',', 1, true)
        requests = requests + tonumber(string.sub(all[i + 1], 1, comma - 1))
        tokens = tokens + tonumber(string.sub(all[i + 1], comma + 1))
    end
end
if tonumber(ARGV[4]) > 0 and requests + own > tonumber(ARGV[4]) then
    own, within = own - 1, 0
end
redis.call('HSET', KEYS[1], ARGV[1], own .. ',' .. ARGV[3])
redis.call('EXPIRE', KEYS[1], 259200)
return {within, requests, tokens}
"""
)

log = Logger()


@attrs.define(eq=False)
class _Credit:
    """Requests of a minute that were bought and are not spent, and what is done without the store."""

    limit: int
    left: int = 0
    #: What was left in the store when it was asked last, and when that was.
    room: float = 0.0
    asked: float | None = None
    refused_until: float = 0.0
    going_back: Any = None
    #: This process's share while the store is away, and what it has let in meanwhile.
    alone: PerMinute | None = None
    owed: int = 0


@attrs.frozen
class _Alone:
    """A day while the store is away: what this process had counted when it went, and may count until it is back."""

    day: int
    before: int
    share: int


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
        self._alone: dict[str, _Alone] = {}
        self._stopped = False
        self._changed: dict[str, None] = {}
        self._timer: Any = None
        allowances.counted = self._note

    # Requests a minute

    async def admit(
        self, name: str, limits: Limits, count: Callable[[], Exceeded | None], *, here: Callable[[], bool]
    ) -> Exceeded | None:
        """
        Take what a request needs of the limits that all processes share; returns the one that is used up.

        :param count: counts the request in this process, and returns the limit of its own that it would exceed.
        :param here: whether the store is there.
        """
        if limits.requests_per_minute is not None:
            exceeded = await self._take(name, limits.requests_per_minute, here)
            if exceeded is not None:
                return exceeded
        exceeded = count()
        if exceeded is None and limits.requests_per_day is not None:
            exceeded = await self._take_of_day(name, limits.requests_per_day, here)
            if exceeded is not None:
                self._allowances.take_back(name)
        return exceeded

    async def _take(self, name: str, limit: int, here: Callable[[], bool]) -> Exceeded | None:
        credit = self._credits.get(name)
        if credit is None or credit.limit != limit:
            credit = self._credits[name] = _Credit(limit)
        if credit.left > 0:
            credit.left -= 1
            return None
        if here():
            now = self._reactor.seconds()
            if credit.refused_until > now:
                return Exceeded("requests_per_minute", limit, credit.refused_until - now)
            try:
                wait = await self._buy(name, credit)
            except Away as e:
                self._away(e)
            else:
                return Exceeded("requests_per_minute", limit, wait) if wait else None
        return self._take_alone(name, credit)

    async def _buy(self, name: str, credit: _Credit) -> float:
        """Buy one for a request, and some more for the next ones; returns the seconds until there is one."""
        wanted = max(1, min(int(credit.room) // (2 * self._members.count), credit.limit // 600))

        def late(reply: Any) -> None:
            credit.left += int(reply[0])
            self._go_back_later(name, credit)

        keys = (self._minute(name),)
        bought, room, micros = await self._link.run(_BUY, keys, credit.limit, wanted, late=late)
        now = self._reactor.seconds()
        credit.room, credit.asked = float(room), now
        if not int(bought):
            wait = max(int(micros) / 1e6, 0.001)
            credit.refused_until = now + min(wait, REFUSED_FOR)
            return wait
        credit.left += int(bought) - 1
        self._go_back_later(name, credit)
        return 0.0

    def _take_alone(self, name: str, credit: _Credit) -> Exceeded | None:
        """Without the store: go on from what was left with this process's share of the limit."""
        now, limit = self._reactor.seconds(), credit.limit
        if self.on_loss == "refuse":
            return Exceeded("requests_per_minute", limit, 1.0)
        if self.on_loss == "share":
            share = self._members.share(limit, name)
            if not share:
                return Exceeded("requests_per_minute", limit, 1.0)
            if credit.alone is None or credit.alone.limit != share:
                credit.alone = PerMinute(share)
                if credit.asked is not None:
                    level = min(float(limit), credit.room + (now - credit.asked) * limit / 60)
                    credit.alone.spend(now, math.ceil(share * (1 - level / limit)))
            wait = credit.alone.take(now)
            if wait:
                return Exceeded("requests_per_minute", limit, wait)
        credit.owed += 1
        return None

    def _go_back_later(self, name: str, credit: _Credit) -> None:
        if credit.left and credit.going_back is None and not self._stopped:
            credit.going_back = self._reactor.callLater(GO_BACK_AFTER, self._go_back, name, credit)

    def _go_back(self, name: str, credit: _Credit) -> None:
        left, credit.left, credit.going_back = credit.left, 0, None
        if left:
            self._charge(name, credit.limit, -left)

    def _charge(self, name: str, limit: int, amount: int) -> None:
        if self._link.connected:
            rest = (1, self._minute(name), limit, amount)
            self._link.ask("EVAL", _CHARGE.text, *rest).addErrback(lambda _: None)

    def _minute(self, name: str) -> str:
        return f"{self._prefix}minute:{name}"

    # Days

    async def _take_of_day(self, name: str, limit: int, here: Callable[[], bool]) -> Exceeded | None:
        """Hold a request, which is counted here, to the limit of a day."""
        now = self._wall()
        day, (own, _) = int(now // DAY), self._allowances.own_today(name)
        exceeded = Exceeded("requests_per_day", limit, max((day + 1) * DAY - now, 0.001))
        if here():
            if own + self._allowances.elsewhere(name)[0] <= limit * NEAR:
                return None
            try:
                within, requests, tokens = await self._count(name, day, limit)
            except Away as e:
                self._away(e)
            else:
                self._allowances.others(name, day, int(requests), int(tokens))
                return None if int(within) else exceeded
        if self.on_loss == "refuse":
            return Exceeded("requests_per_day", limit, 1.0)
        if self.on_loss == "allow":
            return None
        alone = self._alone.get(name)
        if alone is None or alone.day != day:
            left = max(limit - (own - 1) - self._allowances.elsewhere(name)[0], 0)
            alone = self._alone[name] = _Alone(day, own - 1, self._members.share(left, name))
        return None if own - alone.before <= alone.share else exceeded

    async def _count(self, name: str, day: int, limit: int = 0) -> Any:
        requests, tokens = self._allowances.own_today(name)
        key = f"{self._prefix}day:{day}:{name}"
        return await self._link.run(_COUNT, (key,), self._members.name, requests, tokens, limit)

    def _note(self, name: str) -> None:
        """A day's count has changed."""
        self._changed[name] = None
        if self._timer is None and not self._stopped:
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
        """The store is there again: tell what it has missed."""
        self._alone.clear()
        for name, credit in self._credits.items():
            credit.alone = None
            if credit.owed:
                self._charge(name, credit.limit, credit.owed)
                credit.owed = 0
        for name in self._allowances.used_today():
            self._note(name)

    def stop(self) -> None:
        """Give back what is not spent, and end the timers."""
        self._stopped = True
        self._allowances.counted = lambda name: None
        for name, credit in self._credits.items():
            if credit.going_back is not None and credit.going_back.active():
                credit.going_back.cancel()
                self._go_back(name, credit)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    async def tell(self) -> None:
        """Tell now what was to be told soon."""
        names, self._changed = list(self._changed), {}
        for name in names:
            await self._tell_one(name)
