"""
Read a request: values with their places, so that what cannot be expressed is refused by its name.

:class:`Fields` knows what has been looked at.  What nobody has asked for is refused at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agm.dialects.base import BadParameter

__all__ = ["Fields", "array", "number", "object_", "text", "whole"]


def object_(value: Any, place: str) -> dict[str, Any]:
    """Return an object.  :raises BadParameter: if it is none."""
    if not isinstance(value, dict):
        raise BadParameter(place, "an object is expected.")
    return value


def array(value: Any, place: str) -> list[Any]:
    """Return an array.  :raises BadParameter: if it is none."""
    if not isinstance(value, list):
        raise BadParameter(place, "an array is expected.")
    return value


def text(value: Any, place: str) -> str:
    """Return a string.  :raises BadParameter: if it is none."""
    if not isinstance(value, str):
        raise BadParameter(place, "a string is expected.")
    return value


def number(value: Any, place: str) -> float:
    """Return a number.  :raises BadParameter: if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadParameter(place, "a number is expected.")
    return value


def whole(value: Any, place: str, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number within bounds.  :raises BadParameter: if it is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadParameter(place, "a whole number is expected.")
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise BadParameter(place, f"{bounds} is expected, not {value}.")
    return value


class Fields:
    """
    The fields of an object; null is the same as nothing.

    :param place: where the object is, with a dot at its end; "" for the request itself.
    """

    def __init__(self, fields: Mapping[str, Any], place: str = "") -> None:
        self._left = {name: value for name, value in fields.items() if value is not None}
        self._place = place

    def at(self, name: str) -> str:
        """Return where a field is."""
        return self._place + name

    def any(self, names: frozenset[str]) -> bool:
        """Return whether one of these is there: what is rare need not be looked for one by one."""
        return not names.isdisjoint(self._left)

    def take(self, name: str, default: Any = None) -> Any:
        """Take a field, whatever it is."""
        return self._left.pop(name, default)

    def object_(self, name: str) -> dict[str, Any] | None:
        """Take an object; None if it is not there."""
        return object_(self._left.pop(name), self.at(name)) if name in self._left else None

    def array(self, name: str) -> list[Any] | None:
        """Take an array; None if it is not there."""
        return array(self._left.pop(name), self.at(name)) if name in self._left else None

    def text(self, name: str) -> str | None:
        """Take a string; None if it is not there."""
        return text(self._left.pop(name), self.at(name)) if name in self._left else None

    def number(self, name: str) -> float | None:
        """Take a number; None if it is not there."""
        return number(self._left.pop(name), self.at(name)) if name in self._left else None

    def whole(self, name: str, least: int | None = None, most: int | None = None) -> int | None:
        """Take a whole number; None if it is not there."""
        return whole(self._left.pop(name), self.at(name), least, most) if name in self._left else None

    def flag(self, name: str) -> bool | None:
        """Take a boolean; None if it is not there."""
        if name not in self._left:
            return None
        value = self._left.pop(name)
        if not isinstance(value, bool):
            raise BadParameter(self.at(name), "true or false is expected.")
        return value

    def one_of(self, name: str, *allowed: str, why: str = "Gemini has nothing else") -> str | None:
        """Take a word; None if it is not there.  :raises BadParameter: if it is another."""
        value = self.text(name)
        if value is not None and value not in allowed:
            raise BadParameter(self.at(name), f"{value[:40]!r} is not possible; {why}: {', '.join(allowed)}.")
        return value

    def needed(self, name: str) -> str:
        """Take a string.  :raises BadParameter: if it is missing or empty."""
        value = self.text(name)
        if not value:
            raise BadParameter(self.at(name), "is missing.")
        return value

    def skip(self, *names: str) -> None:
        """Pass over what says nothing about the answer: who asks, and how their API keeps its accounts and caches."""
        for name in names:
            self._left.pop(name, None)

    def refuse(self, name: str, why: str, *, unless: tuple[Any, ...] = ()) -> None:
        """:raises BadParameter: if a field is there with another value than these."""
        value = self._left.pop(name, None)
        if value is not None and value not in unless:
            raise BadParameter(self.at(name), why)

    def end(self) -> None:
        """:raises BadParameter: if something is left that nobody has taken."""
        for name in self._left:
            raise BadParameter(self.at(name[:80]), "is not a parameter that can be expressed for Gemini; leave it out.")
