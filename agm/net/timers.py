"""
Many timers that hardly ever fire, at the cost of a set's: one for each request, stream and connection.

The reactor's own timers are kept in a heap, where setting and cancelling cost several microseconds and cancelled ones
stay for a while.  Here they are put into a set, which is looked through as a whole when the first of them is due: a
request's deadline is minutes away, and it is cancelled long before that.  They may be late by half a second, because it
is not looked more often, and are never early.  What is due soon is given to the reactor at once, to be exact.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from agm.net.interfaces import GatewayClock

#: Seconds by which a deadline may be late.
GRAIN = 0.5
#: Deadlines of less than this are exact.
EXACT = 10.0

log = Logger()


class Deadline:
    """What :meth:`Deadlines.after` returns: something that will be called, unless it is cancelled."""

    __slots__ = ("_call", "_deadlines", "at", "delayed")

    def __init__(self, deadlines: Deadlines, at: float, call: Callable[[], object]) -> None:
        self._deadlines = deadlines
        self.at = at
        self._call: Callable[[], object] | None = call
        self.delayed: IDelayedCall | None = None

    @property
    def pending(self) -> bool:
        """Whether it has neither been called nor cancelled."""
        return self._call is not None

    def cancel(self) -> None:
        """Do not call; nothing happens if it has been called or cancelled."""
        if self._call is None:
            return
        self._call = None
        if self.delayed is None:
            self._deadlines.waiting.discard(self)
        else:
            self.delayed.cancel()
            self.delayed = None

    def reset(self, seconds: float) -> None:
        """Call in so many seconds from now instead; nothing happens if it has been called or cancelled."""
        if self._call is None:
            return
        if self.delayed is not None:
            self.delayed.reset(seconds)
        else:
            self.at = self._deadlines.clock.seconds() + seconds
            self._deadlines.look_by(self.at)

    def fire(self) -> None:
        """It is due."""
        self.delayed = None
        call, self._call = self._call, None
        if call is not None:
            call()


class Deadlines:
    """
    The deadlines of one reactor.

    :param clock: the reactor, or a clock in its place.
    :ivar waiting: those that are not the reactor's.
    """

    def __init__(self, clock: GatewayClock) -> None:
        self.clock = clock
        self.waiting: set[Deadline] = set()
        self._timer: IDelayedCall | None = None
        #: When they are looked through next, and when they may be: half a second after the last time.
        self._next = inf
        self._not_before = -inf

    def after(self, seconds: float, call: Callable[[], object]) -> Deadline:
        """Have `call` called in so many seconds."""
        at = self.clock.seconds() + seconds
        deadline = Deadline(self, at, call)
        if seconds < EXACT:
            deadline.delayed = self.clock.callLater(seconds, deadline.fire)
        else:
            self.waiting.add(deadline)
            if at < self._next:
                self.look_by(at)
        return deadline

    def stop(self) -> None:
        """Forget all deadlines; whoever had set them has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.waiting.clear()
        self._next = inf

    def look_by(self, at: float) -> None:
        """Look through them no later than half a second after this time, in seconds of the clock."""
        at = max(at, self._not_before)
        if at >= self._next:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._next = at
        self._timer = self.clock.callLater(max(at - self.clock.seconds(), 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        self._next = inf
        now = self.clock.seconds()
        self._not_before = now + GRAIN
        due = [deadline for deadline in self.waiting if deadline.at <= now]
        self.waiting.difference_update(due)
        for deadline in due:  # one of them may cancel another
            try:
                deadline.fire()
            except Exception:  # the others are due all the same
                log.failure("a deadline callback failed")
        if self.waiting:
            self.look_by(min(deadline.at for deadline in self.waiting))
