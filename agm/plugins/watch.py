"""How long a plugin's synchronous code holds everything else up."""

from __future__ import annotations

import time
from resource import RUSAGE_THREAD, getrusage

__all__ = ["TOO_LONG", "Watch"]

#: A hook that takes longer than this many seconds without awaiting is named in the log: nothing else runs meanwhile.
TOO_LONG = 0.1


class Watch:
    """
    Tells how long a piece of synchronous code has held up its thread, and not how long the machine let it wait.

    On a busy machine the clock alone would blame a plugin for what other processes took.  Code holds its thread up by
    computing, which its processor time tells, or by waiting for something, for which it leaves the processor of its own
    accord.
    """

    __slots__ = ("_began", "_used")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._used = getrusage(RUSAGE_THREAD)

    def held(self) -> float | None:
        """Seconds, if they are more than :data:`TOO_LONG` and the code's own."""
        took = time.perf_counter() - self._began
        if took <= TOO_LONG:
            return None
        now, before = getrusage(RUSAGE_THREAD), self._used
        computed = now.ru_utime - before.ru_utime + now.ru_stime - before.ru_stime
        waited = now.ru_nvcsw > before.ru_nvcsw
        return took if waited or computed > TOO_LONG else None
