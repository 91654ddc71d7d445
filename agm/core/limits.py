"""A limit on the number of requests per minute.  Time is handed in."""

from __future__ import annotations

#: Whoever waits as long as told must be served, although a float of seconds since the epoch is only so fine.
_ROUNDING = 1e-4


class RequestsPerMinute:
    """
    A token bucket that holds a minute's requests: a burst may use them at once, then they come back evenly.

    :param limit: requests per minute, 1 or more.
    """

    __slots__ = ("_at", "_limit", "_tokens")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens = float(limit)
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take one request: 0 if there was one left, else the seconds until there is."""
        if self._at is not None:  # a clock that is set back gives nothing and takes nothing
            self._tokens = min(self._limit, self._tokens + max(0.0, now - self._at) * self._limit / 60)
        self._at = now
        wait = self.wait(now)
        if not wait:
            self._tokens = max(0.0, self._tokens - 1)
        return wait

    def wait(self, now: float) -> float:
        """What :meth:`take` would return now; nothing is taken."""
        tokens = self._tokens
        if self._at is not None:
            tokens = min(self._limit, tokens + max(0.0, now - self._at) * self._limit / 60)
        return 0.0 if tokens >= 1 - _ROUNDING else (1 - tokens) * 60 / self._limit
