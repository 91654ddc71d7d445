"""A clock whose time passes only when somebody says so; quick with as many calls as the requests of a day make."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer


@implementer(IReactorTime)
class ReplayClock:
    """A clock at 0: :meth:`step` goes on to the next call that is due, and makes it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._count = 0
        #: Calls by their time and then in the order in which they were asked for; some are cancelled, or due later.
        self._calls: list[tuple[float, int, DelayedCall]] = []

    def seconds(self) -> float:
        """Return the time."""
        return self._now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        """Have something called so many seconds later."""
        call = DelayedCall(self._now + delay, callable, args, kw, lambda call: None, self._put, self.seconds)
        self._put(call)
        return call

    def _put(self, call: DelayedCall) -> None:
        self._count += 1
        heappush(self._calls, (call.getTime(), self._count, call))

    def getDelayedCalls(self) -> list[DelayedCall]:
        """Return the calls that are to come."""
        return list({id(call): call for _, _, call in self._calls if call.active()}.values())

    def step(self) -> bool:
        """Make the next call; False if there is none."""
        while self._calls:
            time, _, call = heappop(self._calls)
            if not call.active() or call.getTime() < time:  # it was moved to an earlier time, and stands there as well
                continue
            if call.getTime() > time:
                self._put(call)
                continue
            self._now = max(self._now, time)
            call.called = 1
            call.func(*call.args, **call.kw)
            return True
        return False
