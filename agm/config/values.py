"""Readers of single values: strings, numbers, sizes, choices."""

import re
from typing import Any

from agm.config.reading import Place, Reader, RefusedError
from agm.config.words import nearest_of, show


def read_string(value: object, place: Place) -> str:
    """Any string."""
    if not isinstance(value, str):
        raise RefusedError(f"expected a string, not {show(value)}")
    return value


def read_text(value: object, place: Place) -> str:
    """Return a string with something in it and nothing that would tear a line apart."""
    text = read_string(value, place)
    if not text.strip():
        raise RefusedError("is empty")
    if not text.isprintable():
        raise RefusedError(f"{show(text)} holds a control character")
    if text != text.strip():
        raise RefusedError(f"{show(text)} has spaces around it; write {show(text.strip())}")
    return text


def read_boolean(value: object, place: Place) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise RefusedError(f"expected true or false, not {show(value)}")
    return value


def one_of(*choices: str) -> Reader[Any]:
    """One of a few words."""

    def read(value: object, place: Place) -> str:
        if value in choices and isinstance(value, str):
            return value
        nearest = nearest_of(value, choices) if isinstance(value, str) else None
        cure = f"; did you mean {nearest!r}?" if nearest else ""
        raise RefusedError(f"{show(value)} is not one of {', '.join(choices)}{cure}")

    return read


def whole_number(least: int, most: int, otherwise: str = "") -> Reader[int]:
    """Return a whole number from ``least`` to ``most``; ``otherwise`` is the cure for one that is not."""

    def read(value: object, place: Place) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError(f"expected a whole number, not {show(value)}")
        if not least <= value <= most:
            raise RefusedError(f"{show(value)} is not between {least} and {most}{otherwise}")
        return value

    return read


# epoll counts milliseconds in 31 bits: a timer beyond 24 days would stop the reactor instead of firing late.
_LONGEST = 1_000_000


def seconds(*, zero: bool = False) -> Reader[float]:
    """Return a number of seconds that a timer can have; ``zero`` says whether 0 is one."""

    def read(value: object, place: Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RefusedError(f"expected a number of seconds, not {show(value)}")
        if not (0 <= value <= _LONGEST) or (value == 0 and not zero):
            least = "0 or more" if zero else "more than 0"
            raise RefusedError(f"{show(value)} is not a number of seconds: {least}, and at most {_LONGEST}")
        return float(value)

    return read


def read_fraction(value: object, place: Place) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"expected a number from 0 to 1, not {show(value)}")
    if not 0 <= value <= 1:
        raise RefusedError(f"{show(value)} is not a fraction: 0 or more, and at most 1")
    return float(value)


_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_LARGEST = 2**40


def read_size(value: object, place: Place) -> int:
    """Return a number of bytes, or a string of a number and a unit."""
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]+)?", value)):
        unit = _UNITS.get(match[2] or "B")
        if unit is None:
            nearest = nearest_of(match[2], _UNITS)
            cure = f"; did you mean {match[1] + nearest!r}?" if nearest else ""
            raise RefusedError(f"{show(value)} has none of the units {', '.join(_UNITS)}{cure}")
        size = int(match[1]) * unit
    else:
        raise RefusedError(f'{show(value)} is not a size: write bytes, or a whole number and a unit like "100MiB"')
    if not 1 <= size <= _LARGEST:
        raise RefusedError(f"{show(value)} is not between 1 byte and 1024GiB")
    return size


def read_log_size(value: object, place: Place) -> int:
    """Return a number of bytes that a database can do with."""
    size = read_size(value, place)
    if size < 2**20:
        raise RefusedError(f"{show(value)} is less than 1MiB; enabled = false is for none at all")
    return size
