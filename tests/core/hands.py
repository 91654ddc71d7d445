"""A clock for pure code, which is handed the time."""

from __future__ import annotations


class Hands:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
