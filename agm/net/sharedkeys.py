"""
Where instances keep their attributes: in a few words each, rather than in a dict of their own.

CPython keeps the names of attributes once for a class, and with each instance only their values; but only names that
one of the first instances has had.  Where a hundred requests begin before one of them has gone on to its answer, all
that an attribute is given later is unknown by then, and every instance that gets one has its names for itself: four
times the memory, for as long as it lives.  Nothing else depends on this, and no attribute is set here for good.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def lay_out(kind: type, *names: str) -> None:
    """
    Let a class know what its instances will have, that which they get late in their lives included.

    :param names: at most 30, as CPython keeps no more for a class.
    """
    first: Any = object.__new__(kind)
    for name in names:
        with suppress(AttributeError, TypeError):  # it keeps that elsewhere, and has to be let known nothing
            object.__setattr__(first, name, None)
