"""
Events that processes tell each other, and what is known from them: in whatever order they come, the same.

An event says that something was so from a moment on, or that it is no more (a *clear*).  Of two about one thing the
later one counts; a clear of ``a`` also covers all things below it, ``a\\0b``.  Clears are kept as tombstones, so that
an event which was sent before cannot bring back what somebody took back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import msgspec

__all__ = ["Event", "Ledger", "decode", "encode"]

VERSION = 1
#: Seconds for which a tombstone is kept: nothing told before is still on its way.
TOMBSTONE = 7 * 86_400.0


@attrs.frozen(kw_only=True)
class Event:
    """
    Something that happened.

    :ivar topic: the kind of thing, as ``cooldown``.
    :ivar key: which, with its parts joined by NUL.
    :ivar value: what is so, a JSON value; None for a clear.
    :ivar at: when, in seconds since the epoch.
    :ivar by: the process that tells it: of two at one moment the greater name counts.
    :ivar expires: until when it means something, in seconds since the epoch.
    :ivar rest: fields that a later release has added; they are passed on.
    """

    topic: str
    key: str
    value: Any
    at: float
    by: str
    expires: float
    version: int = VERSION
    rest: dict[str, Any] = attrs.field(factory=dict)

    @property
    def order(self) -> tuple[float, bool, str, bytes]:
        """What tells which of two events is the later one; the same in every process."""
        return self.at, self.value is None, self.by, encode(self)

    @property
    def place(self) -> str:
        """What it replaces in a snapshot."""
        return f"{'c' if self.value is None else 'e'}\0{self.topic}\0{self.key}"


_FIELDS = tuple(field.name for field in attrs.fields(Event) if field.name != "rest")


def encode(event: Event) -> bytes:
    """Write an event as JSON, the same bytes for the same event."""
    return msgspec.json.encode({**event.rest, **{name: getattr(event, name) for name in _FIELDS}}, order="sorted")


def decode(text: bytes | str) -> Event:
    """
    Read an event.

    :raises ValueError: if it is none.
    """
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
        known = {name: found.pop(name) for name in _FIELDS}
        times = float(known["at"]), float(known["expires"])
    except (msgspec.DecodeError, KeyError, TypeError) as e:
        raise ValueError("is no event") from e
    if not all(isinstance(known[name], str) for name in ("topic", "key", "by")):
        raise ValueError("is no event")
    return Event(**{**known, "at": times[0], "expires": times[1]}, rest=found)


class Ledger:
    """
    What is known from events.

    :param wall: seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._entries: dict[tuple[str, str], Event] = {}
        self._clears: dict[tuple[str, str], Event] = {}
        self._due = 0.0

    def __iter__(self) -> Iterator[Event]:
        """All that still means something, tombstones included: what a store that lost everything is told."""
        self._forget()
        return iter([*self._clears.values(), *self._entries.values()])

    def get(self, topic: str, key: str) -> Event | None:
        """Return what is so; None if nothing is."""
        found = self._entries.get((topic, key))
        return None if found is None or found.expires <= self._wall() else found

    def items(self, topic: str) -> dict[str, Any]:
        """Return the values of a topic by their keys."""
        now = self._wall()
        return {it.key: it.value for (of, _), it in sorted(self._entries.items()) if of == topic and it.expires > now}

    def apply(self, event: Event) -> bool:
        """Take note of an event; returns whether it was news."""
        now = self._wall()
        if now >= self._due:
            self._forget()
        at = (event.topic, event.key)
        if event.expires <= now:
            return False
        if event.value is None:
            known = self._clears.get(at)
            if known is not None and known.order >= event.order:
                return False
            self._clears[at] = event
            for place in [place for place, it in self._entries.items() if _covers(event, it)]:
                del self._entries[place]
            return True
        if any(
            (clear := self._clears.get((event.topic, key))) is not None and _covers(clear, event)
            for key in _above(event.key)
        ):
            return False
        known = self._entries.get(at)
        if known is not None and known.order >= event.order:
            return False
        self._entries[at] = event
        return True

    def _forget(self) -> None:
        """Drop what means nothing any more; once a minute."""
        now = self._wall()
        self._due = now + 60.0
        for table in (self._entries, self._clears):
            for place in [place for place, it in table.items() if it.expires <= now]:
                del table[place]


def _above(key: str) -> Iterator[str]:
    """Yield a key and those above it."""
    yield key
    while "\0" in key:
        key = key.rpartition("\0")[0]
        yield key


def _covers(clear: Event, entry: Event) -> bool:
    below = entry.key == clear.key or entry.key.startswith(clear.key + "\0")
    return entry.topic == clear.topic and below and entry.at <= clear.at
