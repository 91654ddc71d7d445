"""
Many timers that hardly ever fire, at the cost of a set's: one for each request, stream and connection.

The reactor's own timers are kept in a heap, where setting and cancelling cost several microseconds and cancelled ones
stay for a while.  Here those that are due in the same half second share one of the reactor's; they may be late by that
much, and are never early.  What is due soon is given to the reactor at once, to be exact.  What is due much later waits
in a few large groups, and is sorted when its time is near: a group for each half second of the next hour would be
thousands, all but a few of them empty.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds by which a deadline may be late.
GRAIN = 0.5
#: Deadlines of less than this are exact.
EXACT = 10.0
#: Deadlines of more than this are grouped by so many grains, and looked at again before they are due.
FAR = 60.0
COARSE = 32

log = Logger()


class Deadline:
    """What :meth:`Deadlines.after` returns: something that will be called, unless it is cancelled."""

    __slots__ = ("_at", "_call", "_deadlines", "_delayed", "_slot")

    def __init__(self, deadlines: Deadlines, call: Callable[[], object]) -> None:
        self._deadlines = deadlines
        self._call: Callable[[], object] | None = call
        self._at = 0.0
        self._slot: set[Deadline] | None = None
        self._delayed: IDelayedCall | None = None

    @property
    def pending(self) -> bool:
        """Whether it has neither been called nor cancelled."""
        return self._call is not None

    def cancel(self) -> None:
        """Do not call; nothing happens if it has been called or cancelled."""
        if self._call is None:
            return
        self._call = None
        if self._slot is not None:
            self._slot.discard(self)
            if not self._slot:
                self._slot.clear()  # an empty set keeps the room for what it has held
            self._slot = None
        elif self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def reset(self, seconds: float) -> None:
        """Call in so many seconds from now instead; nothing happens if it has been called or cancelled."""
        if self._call is None:
            return
        if self._delayed is not None:
            self._delayed.reset(seconds)
            return
        at = self._deadlines.clock.seconds() + seconds
        if at >= self._at:
            self._at = at  # it is looked at when the former time has come
        else:
            call = self._call
            self.cancel()
            self._call = call
            self._deadlines.put(self, seconds)

    def _fire(self) -> None:
        self._delayed = self._slot = None
        call, self._call = self._call, None
        if call is not None:
            call()


class Deadlines:
    """
    The deadlines of one reactor.

    :param clock: the reactor, or a clock in its place.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self._slots: dict[int, set[Deadline]] = {}
        self._order: list[int] = []
        self._timer: IDelayedCall | None = None

    def after(self, seconds: float, call: Callable[[], object]) -> Deadline:
        """Have `call` called in so many seconds."""
        deadline = Deadline(self, call)
        self.put(deadline, seconds)
        return deadline

    def stop(self) -> None:
        """Forget all deadlines; whoever had set them has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()

    def put(self, deadline: Deadline, seconds: float) -> None:
        """Set the time of a deadline that has none."""
        if seconds < EXACT:
            deadline._delayed = self.clock.callLater(seconds, deadline._fire)
        else:
            now = self.clock.seconds()
            deadline._at = now + seconds
            self._file(deadline, now)

    def _file(self, deadline: Deadline, now: float) -> None:
        number = int(deadline._at / GRAIN) + 1
        if deadline._at - now > FAR:
            number -= number % COARSE
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
            heappush(self._order, number)
            if self._timer is None or number == self._order[0]:
                self._wait()
        deadline._slot = slot
        slot.add(deadline)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.clock.callLater(max(self._order[0] * GRAIN - self.clock.seconds(), 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.clock.seconds()
        due: list[Deadline] = []
        while self._order and self._order[0] * GRAIN <= now:
            due += self._slots.pop(heappop(self._order))
        for deadline in due:
            deadline._slot = None
        for deadline in due:
            if deadline._call is None:  # one before it has cancelled it
                continue
            if deadline._at > now:
                self._file(deadline, now)
            else:
                try:
                    deadline._fire()
                except Exception:  # the others are due all the same
                    log.failure("what was to be done at a deadline failed")
        if self._order and self._timer is None:
            self._wait()
