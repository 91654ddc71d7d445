"""
The clocks of a process: one for durations, that never steps and goes on while the machine sleeps, and the wall clock.

Twisted's reactors measure durations by the wall clock.  When that is set back, by the first word of a time server or at
the resume of a virtual machine, nothing happens that was to happen in a while; when it is set forward, everything does
at once.  :func:`use_steady_clock` gives a reactor another one.  The wall clock is for what is stored, for dates and for
the expiry of what others have issued; a :class:`ClockWatch` says when it was set, and when the machine has slept.

Nothing here decides what follows from that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["STEP", "ClockWatch", "slept", "steady", "use_steady_clock"]

#: Seconds between two looks at the clocks.
LOOK_EVERY: Final = 1.0
#: A difference of fewer seconds is no step: time servers move a clock by less than a tenth of a second in each.
STEP: Final = 1.0
#: What a reactor is tried with, in seconds.
_TRIAL: Final = 60.0

log = Logger()


def _steadiest() -> Callable[[], float]:
    """Return the best clock there is: it never steps, and does not stand still while the machine sleeps."""
    # on a Mac the plain monotonic clock of Python stands still in sleep, and this one does not
    name = "CLOCK_MONOTONIC_RAW" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    try:
        clock = partial(time.clock_gettime, getattr(time, name))
        clock()
    except (AttributeError, OSError):  # another system, or a kernel in a sandbox that does not have it
        return time.monotonic
    return clock


#: Seconds from some moment on, which go on while the machine sleeps.
steady: Final = _steadiest()


def slept() -> float:
    """Return for how many seconds this machine has slept, from some moment on; only differences mean anything."""
    return steady() - time.monotonic()


#: The clocks that reactors were given.
_given: Final[set[Callable[[], float]]] = set()


def use_steady_clock(reactor: Any, clock: Callable[[], float] = steady) -> None:
    """
    Have a reactor measure time by a clock that never steps.

    It goes on from what the reactor's clock says now: what was scheduled before is still due at its time, and whoever
    takes ``reactor.seconds()`` for a date is wrong by no more than what the wall clock is set by later.  To be called
    before the reactor runs.  A reactor that does not ask its own ``seconds`` stays as it is, with a warning.

    :param clock: is never set.
    """
    before = reactor.seconds
    if before in _given:
        return
    zero = before() - clock()

    def seconds() -> float:
        return clock() + zero

    if not _asks_its_clock(reactor):
        log.warn("this version of Twisted measures time by the wall clock: timers go wrong when that is set")
        return
    reactor.seconds = seconds
    for call in reactor.getDelayedCalls():
        if hasattr(call, "seconds"):  # which it would count from when it is put off
            call.seconds = seconds
    _given.add(seconds)


def _asks_its_clock(reactor: Any) -> bool:
    """Try whether a reactor schedules by its attribute ``seconds``."""
    before = reactor.seconds
    try:
        reactor.seconds = float  # which says 0: whatever is scheduled lies far ahead
        try:
            call = reactor.callLater(_TRIAL, lambda: None)
            # IReactorTime does not have timeout, all of Twisted's reactors do
            rests = reactor.timeout() if hasattr(reactor, "timeout") else _TRIAL
            due = call.getTime()
            call.cancel()
        finally:
            reactor.seconds = before
    except AttributeError:  # it has no such attribute, or does not let go of its own
        return False
    return bool(due == rests == _TRIAL and reactor.seconds is before)


class ClockWatch(Service):
    """
    Notices that the wall clock was set, and that the machine has slept; says so in the log, once each time.

    :param reactor: its clock is the steady one.
    :param wall: seconds since the epoch.
    :param stepped: called with the seconds by which the wall clock was set forward; they are negative for back.
    :param woke: called with the seconds that the machine has slept.
    :param asleep: for how many seconds the machine has slept, from some moment on.
    """

    def __init__(
        self,
        reactor: Any,
        wall: Callable[[], float],
        *,
        stepped: Callable[[float], object],
        woke: Callable[[float], object],
        asleep: Callable[[], float] = slept,
    ) -> None:
        self._seconds: Callable[[], float] = reactor.seconds
        self._wall = wall
        self._stepped = stepped
        self._woke = woke
        self._asleep = asleep
        self._offset = wall() - self._seconds()
        self._slept = asleep()
        self._looking = LoopingCall(self.look)
        self._looking.clock = reactor

    def startService(self) -> None:
        """Start looking."""
        super().startService()
        self._looking.start(LOOK_EVERY, now=False)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def look(self) -> None:
        """Compare the clocks with the last time."""
        asleep = self._asleep()
        before, wall, after = self._seconds(), self._wall(), self._seconds()
        if after - before < STEP / 2:  # else the process was held up in between, and the difference says nothing
            step, self._offset = wall - after - self._offset, wall - after
            if abs(step) >= STEP:
                way = "forward" if step > 0 else "back"
                log.warn(
                    "the clock of this machine was set {way} by {seconds:.1f} seconds; timers go on as before",
                    way=way,
                    seconds=abs(step),
                )
                self._stepped(step)
        duration, self._slept = asleep - self._slept, asleep
        if duration >= STEP:
            log.info("this machine has slept for {seconds:.0f} seconds", seconds=duration)
            self._woke(duration)
