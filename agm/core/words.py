"""Words for numbers of things."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, one: str, many: str | None = None) -> str:
    """
    Count things in words: ``1 account``, ``1,200 accounts``.

    :param many: the plural, where it is not the singular with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
