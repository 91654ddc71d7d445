"""
Clients that take nothing of their answers: who they are, and for how long that has been so.

What waits for a client is here and in the kernel, and only that it becomes less tells that the client reads.  So those
that are behind are looked at several times a second, all of them together, and one that has taken nothing for long
enough is given up within a second of that.  One that reads, however slowly, never is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from agm.net.interfaces import GatewayClock, GatewayTransport
from agm.net.writes import unacked

__all__ = ["LOOK_EVERY", "Reading", "Stall", "Stalls"]

#: Seconds between two looks.
LOOK_EVERY: Final = 0.25

log = Logger()


class Reading:
    """
    Whether a client takes what was written to it.

    :param now: a time in seconds; so are those that :meth:`idle` is asked with.
    """

    __slots__ = ("_left", "_looked", "_since", "_transport")

    def __init__(self, transport: GatewayTransport, now: float) -> None:
        self._transport = transport
        self._left = unacked(transport)
        self._since = self._looked = now

    def idle(self, now: float) -> float:
        """
        Look; for how many seconds it has taken nothing, as far as looks have told.

        Time in which nobody could look does not count: the machine has slept, and the client with it, or this process
        was held up, and gave the client nothing.
        """
        late = now - self._looked - LOOK_EVERY
        if late > LOOK_EVERY:
            self._since += late
        self._looked = now
        left = unacked(self._transport)
        if left < self._left:
            self._since = now
        self._left = left
        return now - self._since


class Stall:
    """What :meth:`Stalls.watch` returns: a client that is behind, until :meth:`end`."""

    __slots__ = ("_cut", "_reading", "_seconds", "_stalls")

    def __init__(self, stalls: Stalls, reading: Reading, seconds: float, cut: Callable[[], object]) -> None:
        self._stalls = stalls
        self._reading = reading
        self._seconds = seconds
        self._cut = cut

    def end(self) -> None:
        """It is not behind any more, or is gone; nothing happens if it was given up."""
        self._stalls.watched.pop(self, None)

    def is_over(self, now: float) -> bool:
        """Look; whether it is to be given up."""
        return self._reading.idle(now) >= self._seconds

    def give_up(self) -> None:
        """Give it up."""
        self.end()
        self._cut()


class Stalls:
    """
    The clients of one gateway that are behind.

    :param clock: the reactor, or a clock in its place.
    :ivar watched: those that are, in the order in which they came to be.
    """

    def __init__(self, clock: GatewayClock) -> None:
        self._clock = clock
        self.watched: dict[Stall, None] = {}
        self._timer: IDelayedCall | None = None

    def watch(self, transport: GatewayTransport, seconds: float, cut: Callable[[], object]) -> Stall:
        """Have `cut` called once the other side of `transport` has taken nothing for so many seconds."""
        stall = Stall(self, Reading(transport, self._clock.seconds()), seconds, cut)
        self.watched[stall] = None
        if self._timer is None:
            self._timer = self._clock.callLater(LOOK_EVERY, self._look)
        return stall

    def stop(self) -> None:
        """Watch nobody any more."""
        self.watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for stall in list(self.watched):  # not the dict: what is written or cut here may change it
            try:
                if stall in self.watched and stall.is_over(now):
                    stall.give_up()
            except Exception:  # the others have nothing to do with it
                log.failure("a stalled client could not be disconnected")
        if self.watched:
            self._timer = self._clock.callLater(LOOK_EVERY, self._look)
