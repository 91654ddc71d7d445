"""
Descriptions of server endpoints, as Twisted reads them: ``tcp:8045:interface=127.0.0.1``; and who is loopback.

Text in, parts out; nothing listens here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import attrs

__all__ = ["FILES_OF", "Description", "ListenerRefused", "is_loopback"]

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

#: Arguments that are names of files, by the kind of endpoint, in the places where they stand without their names.
FILES_OF = {
    "ssl": {"privateKey": 1, "certKey": 2, "extraCertChain": 6, "dhParameters": 7},
    "unix": {"address": 0},
}


class ListenerRefused(ValueError):
    """Nothing can listen like this; the message says why, in a line."""


@attrs.frozen
class Description:
    """What a description says: the kind of endpoint, its arguments without a name in order, and those with one."""

    kind: str
    plain: tuple[str, ...]
    named: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Description:
        """Split at colons; a backslash takes the next character as it is."""
        kind, *arguments = _split(text)
        plain = tuple(value for name, value in arguments if name is None)
        named = {name: value for name, value in arguments if name is not None}
        return cls(kind[1] if kind[0] is None else "", plain, named)

    def __str__(self) -> str:
        return ":".join((_quoted(self.kind), *map(_quoted, self.plain), *self._named()))

    def _named(self) -> Sequence[str]:
        return [f"{_quoted(name)}={_quoted(value, '')}" for name, value in self.named.items()]

    def argument(self, name: str, place: int) -> str | None:
        """Return an argument by its name, or by its place where it has none; None if it is not given."""
        return self.named.get(name, self.plain[place] if len(self.plain) > place else None)

    def put(self, name: str, place: int, value: str) -> Description:
        """Return the same with another value of an argument."""
        if len(self.plain) > place:
            return attrs.evolve(self, plain=(*self.plain[:place], value, *self.plain[place + 1 :]))
        return attrs.evolve(self, named={**self.named, name: value})


def _split(text: str) -> list[tuple[str | None, str]]:
    """Return each part with its name, if it has one."""
    parts: list[tuple[str | None, str]] = []
    name: str | None = None
    value = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            value += next(characters, "")
        elif character == ":":
            parts.append((name, value))
            name, value = None, ""
        elif character == "=" and name is None:
            name, value = value, ""
        else:
            value += character
    return [*parts, (name, value)]


def _quoted(text: str, further: str = "=") -> str:
    return "".join(f"\\{character}" if character in f"\\:{further}" else character for character in text)


def is_loopback(host: str) -> bool:
    """Return whether a name or address certainly is this machine's loopback."""
    if host.lower() in _LOOPBACK_NAMES or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
